//! What can be said of a LUKS2 header's tokens without trying them.

use std::fmt;

use super::ports::Header;

/// Types of tokens that are no source of a key for libcryptsetup, and what they are instead.
const NO_SOURCES: [(&str, &str); 2] = [
    ("systemd-recovery", "it marks a recovery key, which is typed as a passphrase"),
    ("clevis", "clevis itself uses it where \"passphrase\" is asked for"),
];

/// A LUKS2 token of another program's: `systemd-tpm2`, `systemd-fido2`, `clevis`, …
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OtherToken {
    /// Its number.
    pub number: u32,
    /// Its type.
    pub kind: String,
    /// The keyslots that it gives keys for.
    pub keyslots: Vec<u32>,
    /// Whether libcryptsetup knows how to get a key from it, by a plug-in or by itself.
    pub has_plugin: bool,
}

impl fmt::Display for OtherToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} ({})", self.number, self.kind)
    }
}

/// Whether libcryptsetup could have a plug-in that gets a key from it.
pub fn is_source(token: &OtherToken) -> bool {
    NO_SOURCES.iter().all(|(kind, _)| *kind != token.kind)
}

/// Whether it could give a key if its plug-in were installed.
pub fn lacks_plugin(token: &OtherToken) -> bool {
    !token.has_plugin && is_source(token)
}

/// Why no token can open it at all, whatever is installed and plugged in; `None`: there is one.
pub fn lack(header: &Header) -> Option<String> {
    if header.version == 1 {
        return Some("it is LUKS1, which has no tokens".to_owned());
    }
    if header.others.iter().any(is_source) {
        return None;
    }
    let others = header
        .others
        .iter()
        .map(|token| format!("{token}: {}", without_plugin(&token.kind)));
    let others: Vec<String> = others.collect();
    Some(match others.as_slice() {
        [] => "its header has no token of a TPM, a FIDO2 stick or a smart card".to_owned(),
        others => others.join("; "),
    })
}

/// What it means that there is no plug-in for this type, and what to do.
pub fn without_plugin(kind: &str) -> String {
    if let Some((_, words)) = NO_SOURCES.iter().find(|(known, _)| *known == kind) {
        return (*words).to_owned();
    }
    let package = if kind.starts_with("systemd-") {
        " (it comes with the package systemd-cryptsetup, on Debian 12 with systemd)"
    } else {
        ""
    };
    format!("its plug-in libcryptsetup-token-{kind}.so is not installed{package}")
}
