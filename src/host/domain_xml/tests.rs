//! Domain and pool definitions, as libvirt writes them and as nobody should.

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r"<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>mailserver</name>
  <uuid>6695EB01-f6a4-8304-79aa-97f2502e193f</uuid>
  <metadata><app:x xmlns:app='urn:app'><disk><source file='/no/metadata'/></disk></app:x></metadata>
  <os>
    <type>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd' format='qcow2'>/srv/vm/vars.fd</nvram>
    <kernel>/boot/vmlinuz</kernel>
    <initrd> /boot/initrd </initrd>
  </os>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/mapper/mail' index='1'>
      <reservations managed='no'><source type='unix' path='/no/reservations' mode='client'/></reservations>
      <slices><slice type='storage' offset='12345' size='123'/></slices></source><target dev='vda'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/srv/vm/top.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/srv/vm/middle.qcow2'/>
        <backingStore type='block'><format type='raw'/><source dev='/dev/mapper/base'/><backingStore/></backingStore>
      </backingStore>
      <mirror type='file' job='copy' ready='yes'><format type='qcow2'/><source file='/srv/new/copy.qcow2'/></mirror>
    </disk>
    <disk type='file' device='disk'><driver type='qcow2'/><source file='/srv/vm/split.qcow2'>
      <dataStore type='block'><format type='raw'/><source dev='/dev/mapper/data'/></dataStore></source></disk>
    <disk type='volume' device='disk'><driver type='qcow2'/><source pool='vms' volume='web.qcow2'/></disk>
    <disk type='dir' device='floppy'><source dir='/srv/floppy'/></disk>
    <disk type='network'><source protocol='nbd' name='/no/network'><host name='example.org'/></source></disk>
    <disk type='file' device='cdrom'><target dev='hdc'/></disk>
    <disk type='file' device='cdrom'><source file='relative.iso' startupPolicy='optional'/></disk>
    <filesystem type='mount'><source dir='/srv/share'/><target dir='share'/></filesystem>
    <memory model='nvdimm'><source><path>/srv/vm/pmem</path></source></memory>
    <interface type='network'><source network='default'/></interface>
    <interface type='network'><source network='lan' portgroup='x'/></interface>
    <interface type='network'><source network='default'/></interface>
    <interface type='bridge'><source bridge='br0' network='no'/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='file'><source path='/no/serial'/></serial>
  </devices>
</domain>";

fn source(place: Place, format: Option<&str>, backing_declared: bool) -> DiskSource {
    DiskSource {
        place,
        format: format.map(ToOwned::to_owned),
        backing_declared,
    }
}

fn at(path: &str) -> Place {
    Place::Path(path.into())
}

#[test]
fn every_place_of_a_domain_is_found_and_nothing_else() {
    let domain = DomainXml::parse(WHOLE).unwrap();
    assert_eq!(domain.name, "mailserver");
    assert_eq!(domain.uuid, "6695eb01-f6a4-8304-79aa-97f2502e193f");
    assert!(!domain.restarts_on_poweroff);
    assert_eq!(domain.networks, ["default", "lan"]);
    assert!(domain.has_agent);
    let other = WHOLE.replace("org.qemu.guest_agent.0", "com.redhat.spice.0");
    assert!(!DomainXml::parse(&other).unwrap().has_agent);
    let web = Place::Volume {
        pool: "vms".into(),
        volume: "web.qcow2".into(),
    };
    let wanted = vec![
        source(at("/usr/share/OVMF/OVMF_CODE.fd"), None, false),
        source(at("/srv/vm/vars.fd"), None, false),
        source(at("/boot/vmlinuz"), None, false),
        source(at("/boot/initrd"), None, false),
        source(at("/dev/mapper/mail"), Some("raw"), false),
        source(at("/srv/vm/top.qcow2"), Some("qcow2"), true),
        source(at("/srv/vm/middle.qcow2"), Some("qcow2"), true),
        source(at("/dev/mapper/base"), Some("raw"), true),
        source(at("/srv/new/copy.qcow2"), Some("qcow2"), false),
        source(at("/srv/vm/split.qcow2"), Some("qcow2"), false),
        source(at("/dev/mapper/data"), None, false),
        source(web, Some("qcow2"), false),
        source(at("/srv/floppy"), None, false),
        source(at("/srv/share"), None, false),
        source(at("/srv/vm/pmem"), None, false),
    ];
    assert_eq!(domain.disks, wanted);
}

#[test]
fn firmware_variables_may_be_a_source_of_their_own() {
    let xml = "<domain><os><nvram type='block' format='qcow2'><source dev='/dev/mapper/vars'/></nvram></os></domain>";
    let domain = DomainXml::parse(xml).unwrap();
    assert_eq!(domain.disks, [source(at("/dev/mapper/vars"), Some("qcow2"), false)]);
}

#[test]
fn an_endless_restart_is_seen() {
    let with = |word: &str| format!("<domain><on_poweroff> {word} </on_poweroff></domain>");
    assert!(DomainXml::parse(&with("restart")).unwrap().restarts_on_poweroff);
    assert!(DomainXml::parse(&with("rename-restart")).unwrap().restarts_on_poweroff);
    assert!(!DomainXml::parse(&with("preserve")).unwrap().restarts_on_poweroff);
}

#[test]
fn careless_metadata_hides_no_disk() {
    let xml = "<domain><name>web</name><metadata><foreign:thing/></metadata>\
        <devices><disk><source file='/srv/web'/></disk></devices></domain>";
    assert!(Document::parse(xml).is_err());
    let domain = DomainXml::parse(xml).unwrap();
    assert_eq!(domain.disks, [source(at("/srv/web"), None, false)]);
}

#[test]
fn pools_tell_their_folder() {
    let pool = |kind: &str, target: &str| PoolXml::parse(&format!("<pool type='{kind}'><name>p</name>{target}</pool>")).unwrap();
    let dir = pool("dir", "<target><path>/srv/vm</path></target>");
    assert_eq!((dir.kind.as_str(), dir.target), ("dir", Some("/srv/vm".into())));
    assert_eq!(pool("rbd", "").target, None);
    assert_eq!(pool("dir", "<target><path>odd</path></target>").target, None);
}

#[test]
fn something_else_is_refused_with_words() {
    let words = DomainXml::parse("<pool/>").unwrap_err().to_string();
    assert_eq!(words, "libvirt's XML should be a <domain>, but is a <pool>");
    assert!(
        DomainXml::parse("<domain>")
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    assert!(matches!(PoolXml::parse("<domain/>"), Err(XmlError::Unexpected { .. })));
}

#[test]
fn a_chain_without_end_is_cut() {
    let deep = format!(
        "<domain><devices><disk>{}{}</disk></devices></domain>",
        "<source file='/a'/><backingStore>".repeat(300),
        "</backingStore>".repeat(300)
    );
    assert_eq!(DomainXml::parse(&deep).unwrap().disks.len(), CHAIN_LIMIT);
}

proptest! {
    #[test]
    fn damaged_xml_never_panics(at in 0..WHOLE.len(), cut in 0..200_usize, put in ".{0,12}") {
        let from = WHOLE.floor_char_boundary(at);
        let to = WHOLE.floor_char_boundary((at + cut).min(WHOLE.len()));
        let damaged = [&WHOLE[..from], &put, &WHOLE[to..]].concat();
        let _ = DomainXml::parse(&damaged);
        let _ = PoolXml::parse(&damaged);
    }

    #[test]
    fn pieces_of_xml_never_panic(pieces in proptest::collection::vec(
        prop_oneof!["<domain>", "</domain>", "<metadata", "</metadata>", "<devices>", "<disk", " file='/x'", "/>", ">", "&lt;", "\u{e9}"], 0..20)
    ) {
        let _ = DomainXml::parse(&pieces.concat());
    }
}

#[test]
fn the_secrets_of_encrypted_disks_are_found_and_no_others() {
    let xml = r"<domain><devices>
      <disk type='file'><driver type='qcow2'/><source file='/srv/new.qcow2'>
        <encryption format='luks'><secret type='passphrase' uuid='5F1C2A7E8A534D0E9F0D0B1C2D3E4F50'/></encryption></source>
        <backingStore type='file'><format type='raw'/><source file='/srv/base'>
          <encryption format='luks'><secret type='passphrase' usage='/srv/base'/></encryption></source></backingStore></disk>
      <disk type='file'><source file='/srv/old'/>
        <encryption format='luks'><secret type='passphrase' uuid='77777777-7777-4777-8777-777777777777'/></encryption></disk>
      <disk type='network'><driver type='raw'/><source protocol='rbd' name='a/b'>
        <auth username='x'><secret type='ceph' uuid='88888888-8888-4888-8888-888888888888'/></auth>
        <encryption format='luks' engine='librbd'><secret type='passphrase' usage='rbd'/></encryption></source></disk>
      <disk type='volume'><driver type='raw'/><source pool='vms' volume='web'>
        <encryption format='luks'><secret type='passphrase' usage=''/></encryption></source></disk>
    </devices></domain>";
    let found = DomainXml::parse(xml).unwrap().secrets;
    let secret = |id: SecretId, place, format: Option<&str>| DiskSecret {
        id,
        place,
        format: format.map(ToOwned::to_owned),
    };
    let usage = |name: &str| SecretId::Usage(name.to_owned());
    let uuid = |name: &str| SecretId::Uuid(name.to_owned());
    assert_eq!(
        found,
        [
            secret(
                uuid("5f1c2a7e-8a53-4d0e-9f0d-0b1c2d3e4f50"),
                Some(at("/srv/new.qcow2")),
                Some("qcow2")
            ),
            secret(usage("/srv/base"), Some(at("/srv/base")), Some("raw")),
            secret(uuid("77777777-7777-4777-8777-777777777777"), Some(at("/srv/old")), None),
            secret(usage("rbd"), None, Some("raw")),
        ]
    );
}
