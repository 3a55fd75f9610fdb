//! What libvirt's XML says that matters here: which places of the host a domain uses, and where a pool keeps its volumes.
//! Pure: text in, plain data out. Domain XML is described in libvirt's `formatdomain`, pool XML in its `formatstorage`.

use std::path::PathBuf;

use roxmltree::{Document, Node};

use crate::facts::SecretId;

/// How many images of one backing chain are read, here and in [`super::qcow2`].
pub(super) const CHAIN_LIMIT: usize = 64;

/// The name of a guest agent's channel (libvirt's `formatdomain`, "Channel").
const AGENT: &str = "org.qemu.guest_agent.0";

/// A domain's definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainXml {
    /// `<name>`
    pub name: String,
    /// `<uuid>`
    pub uuid: String,
    /// Every place of the host that its disks, filesystems and firmware files are at; images of a chain that the XML spells
    /// out have an entry each.
    pub disks: Vec<DiskSource>,
    /// The secrets that its encrypted disks need.
    pub secrets: Vec<DiskSecret>,
    /// The networks of libvirt's that its interfaces are on, each once.
    pub networks: Vec<String>,
    /// Whether the domain starts again when its guest powers off (`<on_poweroff>`): it would never stop.
    pub restarts_on_poweroff: bool,
    /// Whether it has a channel for a guest agent (`<channel>` to the target `org.qemu.guest_agent.0`).
    pub has_agent: bool,
}

/// A secret that a disk needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSecret {
    /// Which.
    pub id: SecretId,
    /// The image that it opens; `None`: it is on another host.
    pub place: Option<Place>,
    /// The image format that the XML declares.
    pub format: Option<String>,
}

/// One place that a domain uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSource {
    /// Where.
    pub place: Place,
    /// The image format that the XML declares (`qcow2`, `raw`, …). libvirt takes an undeclared one for raw.
    pub format: Option<String>,
    /// Whether the XML itself says what lies below this image (`<backingStore>`, also an empty one: nothing does), so that the
    /// backing file in the image's own header counts for nothing.
    pub backing_declared: bool,
}

/// Where a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An absolute path: a block device, a file or a folder.
    Path(PathBuf),
    /// A volume of a storage pool.
    Volume {
        /// The pool's name.
        pool: String,
        /// The volume's name in it.
        volume: String,
    },
}

/// A storage pool's definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolXml {
    /// Its type: `dir`, `fs`, `logical`, `disk`, …
    pub kind: String,
    /// The folder that its volumes appear in (`<target><path>`); `None`: it has none on the host (rbd, …).
    pub target: Option<PathBuf>,
}

/// The XML is not what libvirt writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not well-formed.
    #[error("libvirt's XML cannot be read: {0}")]
    Malformed(String),
    /// Well-formed, but something else.
    #[error("libvirt's XML should be a <{wanted}>, but is a <{found}>")]
    Unexpected {
        /// The root element that it should have.
        wanted: &'static str,
        /// The one that it has.
        found: String,
    },
}

impl DomainXml {
    /// Reads a domain's XML.
    ///
    /// # Errors
    /// When it is not well-formed, or no domain.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        match Document::parse(xml) {
            Ok(document) => Self::from_root(document.root_element()),
            // libvirt keeps in <metadata> what other programs put there, also what its own lenient parser let pass (prefixes
            // of namespaces that are not declared). None of it matters here.
            Err(error) => {
                let rest = without_metadata(xml).ok_or_else(|| XmlError::Malformed(error.to_string()))?;
                let document = Document::parse(&rest).map_err(|_| XmlError::Malformed(error.to_string()))?;
                Self::from_root(document.root_element())
            }
        }
    }

    fn from_root(root: Node<'_, '_>) -> Result<Self, XmlError> {
        expect(root, "domain")?;
        let (mut disks, mut secrets, mut networks, mut has_agent) = (Vec::new(), Vec::new(), Vec::new(), false);
        if let Some(os) = child(root, "os") {
            firmware(os, &mut disks);
        }
        for device in child(root, "devices").iter().flat_map(Node::children) {
            match device.tag_name().name() {
                "disk" => {
                    images(device, &mut disks);
                    disk_secrets(device, &mut secrets);
                    for mirror in children(device, "mirror") {
                        images(mirror, &mut disks);
                    }
                }
                "interface" if device.attribute("type") == Some("network") => {
                    let name = child(device, "source").and_then(|source| source.attribute("network"));
                    networks.extend(name.map(ToOwned::to_owned).filter(|name| !networks.contains(name)));
                }
                "channel" => has_agent |= child(device, "target").is_some_and(|target| target.attribute("name") == Some(AGENT)),
                "filesystem" => disks.extend(child(device, "source").and_then(place).map(plain)),
                // An NVDIMM's or virtio-pmem's backing file.
                "memory" => disks.extend(child(device, "source").and_then(|source| text_path(child(source, "path")?))),
                _ => {}
            }
        }
        let on_poweroff = text(root, "on_poweroff");
        Ok(Self {
            name: text(root, "name"),
            uuid: text(root, "uuid").to_ascii_lowercase(),
            disks,
            secrets,
            networks,
            restarts_on_poweroff: matches!(on_poweroff.as_str(), "restart" | "rename-restart"),
            has_agent,
        })
    }
}

impl PoolXml {
    /// Reads a pool's XML.
    ///
    /// # Errors
    /// When it is not well-formed, or no pool.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        let document = Document::parse(xml).map_err(|error| XmlError::Malformed(error.to_string()))?;
        let root = document.root_element();
        expect(root, "pool")?;
        let target = child(root, "target").map(|target| PathBuf::from(text(target, "path")));
        Ok(Self {
            kind: root.attribute("type").unwrap_or_default().to_owned(),
            target: target.filter(|path| path.is_absolute()),
        })
    }
}

/// The files that the guest boots from: kernel, firmware and the firmware's variables.
fn firmware(os: Node<'_, '_>, found: &mut Vec<DiskSource>) {
    for node in os.children() {
        match node.tag_name().name() {
            "kernel" | "initrd" | "dtb" => found.extend(text_path(node)),
            "loader" | "nvram" => {
                found.extend(text_path(node));
                let format = node.attribute("format").map(ToOwned::to_owned);
                found.extend(
                    child(node, "source")
                        .and_then(place)
                        .map(|place| DiskSource { format, ..plain(place) }),
                );
            }
            _ => {}
        }
    }
}

/// The image of a `<disk>` or `<mirror>`, and what the XML says lies below it.
fn images(disk: Node<'_, '_>, found: &mut Vec<DiskSource>) {
    let mut image = Some(disk);
    for _ in 0..CHAIN_LIMIT {
        let Some(node) = image else { return };
        let below = child(node, "backingStore");
        let source = child(node, "source");
        // Before libvirt 1.2.6 a <mirror> named its file itself.
        let at = source.and_then(place).or_else(|| place(node));
        found.extend(at.map(|place| DiskSource {
            place,
            format: declared_format(node),
            backing_declared: below.is_some(),
        }));
        // The data of a qcow2 image that holds none itself.
        for store in source.into_iter().chain([node]).flat_map(|node| children(node, "dataStore")) {
            found.extend(child(store, "source").and_then(place).map(plain));
        }
        image = below;
    }
}

/// What the disk's image, and those below it, are encrypted with.
fn disk_secrets(disk: Node<'_, '_>, found: &mut Vec<DiskSecret>) {
    let mut image = Some(disk);
    for _ in 0..CHAIN_LIMIT {
        let Some(node) = image else { return };
        let source = child(node, "source");
        // Before libvirt 3.9 it stood beside the source.
        for encryption in source.into_iter().chain([node]).flat_map(|node| children(node, "encryption")) {
            let ids = children(encryption, "secret").filter_map(|secret| {
                let by = |name| secret.attribute(name).filter(|value| !value.is_empty());
                by("uuid")
                    .map(SecretId::of)
                    .or_else(|| by("usage").map(|usage| SecretId::Usage(usage.to_owned())))
            });
            found.extend(ids.map(|id| DiskSecret {
                id,
                place: source.and_then(place),
                format: declared_format(node),
            }));
        }
        image = child(node, "backingStore");
    }
}

fn declared_format(image: Node<'_, '_>) -> Option<String> {
    let format = child(image, "driver")
        .and_then(|driver| driver.attribute("type"))
        .or_else(|| child(image, "format").and_then(|format| format.attribute("type")));
    format.map(ToOwned::to_owned)
}

fn place(source: Node<'_, '_>) -> Option<Place> {
    let attribute = |name| source.attribute(name).filter(|value| !value.is_empty());
    if let (Some(pool), Some(volume)) = (attribute("pool"), attribute("volume")) {
        return Some(Place::Volume {
            pool: pool.to_owned(),
            volume: volume.to_owned(),
        });
    }
    ["dev", "file", "dir"].into_iter().find_map(attribute).and_then(path)
}

fn plain(place: Place) -> DiskSource {
    DiskSource {
        place,
        format: None,
        backing_declared: false,
    }
}

fn path(words: &str) -> Option<Place> {
    let path = PathBuf::from(words);
    path.is_absolute().then_some(Place::Path(path))
}

fn text_path(node: Node<'_, '_>) -> Option<DiskSource> {
    path(node.text().unwrap_or_default().trim()).map(plain)
}

fn text(node: Node<'_, '_>, name: &'static str) -> String {
    let found = child(node, name).and_then(|child| child.text());
    found.unwrap_or_default().trim().to_owned()
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

fn expect(root: Node<'_, '_>, wanted: &'static str) -> Result<(), XmlError> {
    if root.has_tag_name(wanted) {
        return Ok(());
    }
    Err(XmlError::Unexpected {
        wanted,
        found: root.tag_name().name().to_owned(),
    })
}

fn without_metadata(xml: &str) -> Option<String> {
    const END: &str = "</metadata>";
    let from = xml.find("<metadata")?;
    let to = xml.rfind(END)? + END.len();
    (from < to).then(|| [&xml[..from], &xml[to..]].concat())
}

#[cfg(test)]
mod tests;
