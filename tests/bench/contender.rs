//! Who is compared, and how each is set up: as its own manual says.

use std::fmt::Write;

use crate::{disk::Disk, host::Builder, names};

/// One way to bring the guests up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// crypttab, libvirt's autostart, libvirt-guests.
    Crypttab,
    /// virt-unlock, the volumes in one passphrase group.
    VirtUnlock,
    /// virt-unlock, the volumes enrolled with one master.
    Master,
}

/// The configuration.
pub const CONFIG: &str = "/etc/virt-unlock/config.toml";
/// The header of the master.
pub const MASTER: &str = "/etc/virt-unlock/masters/all.luks";
const DOMAIN: &str = include_str!("../host/image/domain.xml");
/// All guests may go down at once: what an administrator sets who has read the file.
const LIBVIRT_GUESTS: &str = "ON_BOOT=ignore\nON_SHUTDOWN=shutdown\nPARALLEL_SHUTDOWN=@COUNT@\nSHUTDOWN_TIMEOUT=180\n";

impl Contender {
    const ALL: [Self; 3] = [Self::Crypttab, Self::VirtUnlock, Self::Master];

    /// As `BENCH_WITH` and the figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crypttab => "crypttab",
            Self::VirtUnlock => "virt-unlock",
            Self::Master => "master",
        }
    }

    /// The other way round.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|contender| contender.name() == name)
    }

    /// How its question begins on the console.
    pub fn question(self) -> &'static str {
        match self {
            Self::Crypttab => "enter passphrase for disk",
            Self::VirtUnlock => "Passphrase for volume",
            Self::Master => "Passphrase for master",
        }
    }

    /// The host with so many guests, and with this.
    pub fn on(self, mut host: Builder, count: usize, disk: &Disk) -> Builder {
        let names = names(count);
        // The guests of other tests are not here.
        host = host.prepare("rm -f /etc/libvirt/qemu/*.xml /etc/libvirt/qemu/autostart/*.xml /etc/libvirt/storage/*.xml");
        let (mut domains, mut autostart) = (String::new(), String::new());
        for (number, name) in (1..).zip(&names) {
            host = host.file(&format!("/root/bench/{name}.xml"), domain(number, name));
            let _ = writeln!(domains, "mv /root/bench/{name}.xml /etc/libvirt/qemu/{name}.xml");
            let _ = writeln!(
                autostart,
                "ln -s /etc/libvirt/qemu/{name}.xml /etc/libvirt/qemu/autostart/{name}.xml"
            );
        }
        // virt-unlock starts its guests side by side where libvirt's daemon does not begin with them, as the manual says.
        if self == Self::Crypttab {
            domains += &autostart;
        }
        host = host
            .prepare(&domains)
            .file(
                "/etc/default/libvirt-guests",
                LIBVIRT_GUESTS.replace("@COUNT@", &count.to_string()),
            )
            .enable("libvirt-guests.service");
        match self {
            Self::Crypttab => {
                let line = |name: &String| format!("{name} /dev/bench/{name} none luks\n");
                host.file("/etc/crypttab", names.iter().map(line).collect::<String>())
            }
            Self::VirtUnlock => host.file(CONFIG, grouped(&names)).enable("virt-unlock.service"),
            Self::Master => host
                .file(CONFIG, mastered(&names))
                .file(&format!("{MASTER}.gz"), disk.master.clone().unwrap_or_default())
                .prepare(&format!(
                    "gunzip {MASTER}.gz; chmod 600 {MASTER}; chmod 700 $(dirname {MASTER})"
                ))
                .enable("virt-unlock.service"),
        }
    }
}

/// All volumes have one passphrase.
pub fn grouped(names: &[String]) -> String {
    let table = |name: &String| {
        format!(
            "[volume.{name}]\ndevice = \"/dev/bench/{name}\"\npassphrase-group = \"all\"\n\n[domain.{name}]\nstart = true\n\n"
        )
    };
    names.iter().map(table).collect()
}

/// The same, opened by a master where that works.
pub fn mastered(names: &[String]) -> String {
    let way = "passphrase-group = \"all\"\nunlock = [{ master = \"all\" }, \"passphrase\"]";
    let volumes = grouped(names).replace("passphrase-group = \"all\"", way);
    format!("[master.all]\nheader = \"{MASTER}\"\n\n{volumes}")
}

fn domain(number: usize, name: &str) -> String {
    let words = [
        ("@NAME@", name.to_owned()),
        ("@UUID@", format!("77777777-7777-4777-8777-{number:012}")),
        ("@TYPE@", "block".to_owned()),
        ("@FORMAT@", "raw".to_owned()),
        ("@ATTRIBUTE@", "dev".to_owned()),
        ("@SOURCE@", format!("/dev/mapper/{name}")),
    ];
    words
        .iter()
        .fold(DOMAIN.to_owned(), |text, (word, value)| text.replace(word, value))
}
