//! More disks than the two of the image, for scenarios that bring their own.

use super::{Builder, Host, image};
use std::{io, path::Path};

impl Builder {
    /// One more disk, `/dev/vdc` and so on: it begins as this raw image is, which is only read.
    pub fn disk(mut self, image: &Path) -> Self {
        self.more_disks.push(image.to_owned());
        self
    }
}

impl Host {
    /// Keeps a disk of a host that is off as a raw image: 0 is `/dev/vda`.
    pub fn save_disk(&self, number: usize, to: &Path) -> io::Result<()> {
        let part = to.with_extension("part");
        let (from, part_path) = (self.disks[number].display().to_string(), part.display().to_string());
        image::qemu_img(&["convert", "-O", "raw", &from, &part_path])?;
        std::fs::rename(part, to)
    }
}
