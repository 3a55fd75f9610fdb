//! What a scenario brings to the host, as a cpio archive that the kernel unpacks over the initrd.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

/// Files by their path in the initrd; a later one replaces an earlier one.
#[derive(Default, Clone)]
pub struct Archive {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Clone)]
enum Entry {
    Folder,
    File(Vec<u8>, u32),
    Link(PathBuf),
}

impl Archive {
    /// Puts a file at `path` in the host's root filesystem.
    pub fn host_file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>, mode: u32) {
        self.insert(&in_root(path.as_ref()), Entry::File(content.into(), mode));
    }

    /// Puts a folder and all below it at the top of the host's root filesystem.
    pub fn host_tree(&mut self, folder: &Path) -> io::Result<()> {
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for item in fs::read_dir(next)? {
                let item = item?;
                let (path, kind) = (item.path(), item.file_type()?);
                let name = in_root(path.strip_prefix(folder).map_err(io::Error::other)?);
                if kind.is_dir() {
                    self.insert(&name, Entry::Folder);
                    folders.push(path);
                } else if kind.is_symlink() {
                    self.insert(&name, Entry::Link(fs::read_link(path)?));
                } else {
                    let mode = fs::metadata(&path)?.permissions().mode();
                    self.insert(&name, Entry::File(fs::read(path)?, mode & 0o7777));
                }
            }
        }
        Ok(())
    }

    /// Puts a file into the initrd itself.
    pub fn initrd_file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.insert(path.as_ref(), Entry::File(content.into(), 0o755));
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            self.entries.entry(folder.to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive in the "newc" form.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // A folder sorts before what is in it, as it must stand.
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let (mode, content) = match entry {
                Entry::Folder => (0o040_755, &[][..]),
                Entry::File(content, mode) => (0o100_000 | mode, &content[..]),
                Entry::Link(target) => (0o120_777, target.as_os_str().as_encoded_bytes()),
            };
            member(&mut out, number, mode, path.as_os_str().as_encoded_bytes(), content);
        }
        member(&mut out, 0, 0, b"TRAILER!!!", &[]);
        out
    }
}

fn member(out: &mut Vec<u8>, number: usize, mode: u32, name: &[u8], content: &[u8]) {
    let fields = [
        number,
        mode as usize,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    out.extend(b"070701");
    out.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    out.extend(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Where `path` of the host's root filesystem lies in the initrd; Debian's top folders bin, lib, … are links into usr.
fn in_root(path: &Path) -> PathBuf {
    let mut names = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .peekable();
    let mut found = PathBuf::from("extra");
    if names
        .peek()
        .is_some_and(|first| ["bin", "sbin", "lib", "lib64"].iter().any(|top| first.as_os_str() == *top))
    {
        found.push("usr");
    }
    found.extend(names);
    found
}
