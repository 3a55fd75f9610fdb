//! libvirt's errors, sorted by what can be done about them.

use virt::error::{Error, ErrorDomain, ErrorNumber};
use virt_unlock::host::HypervisorError;

/// An error of a call.
pub fn sort(error: &Error) -> HypervisorError {
    by_code(error.code().known(), error.domain().known(), error.message())
}

/// An error of connecting.
pub fn connecting(uri: &str, error: &Error) -> HypervisorError {
    while_connecting(uri, sort(error))
}

/// An error of a call whose connection broke.
pub fn broken(uri: &str, error: &Error) -> HypervisorError {
    HypervisorError::Unavailable(format!("the connection to {uri} broke: {}", one_line(error.message())))
}

/// Whether the hypervisor's driver does not know the flags of a call (virCheckFlags in libvirt's `src/internal.h`).
pub fn knows_no_flags(error: &Error) -> bool {
    let code = error.code();
    (code.is(ErrorNumber::InvalidArg) || code.is(ErrorNumber::ArgumentUnsupported))
        && error.message().contains("unsupported flags")
}

/// Whether there is no network driver at all, as with storage below: then there is no network of libvirt's.
pub fn has_no_network(error: &Error) -> bool {
    let message = error.message();
    error.code().is(ErrorNumber::NoSupport) || (message.contains("virtnetworkd-sock") && message.contains("No such file"))
}

/// Whether there is no storage driver at all: neither in the daemon nor, with modular daemons, beside it. Then there are no pools.
pub fn has_no_storage(error: &Error) -> bool {
    let message = error.message();
    error.code().is(ErrorNumber::NoSupport) || (message.contains("virtstoraged-sock") && message.contains("No such file"))
}

/// Whether there is no secret driver at all, as with storage above: then there are no secrets.
pub fn has_no_secrets(error: &Error) -> bool {
    let message = error.message();
    error.code().is(ErrorNumber::NoSupport) || (message.contains("virtsecretd-sock") && message.contains("No such file"))
}

fn while_connecting(uri: &str, error: HypervisorError) -> HypervisorError {
    match error {
        HypervisorError::Denied(words) => HypervisorError::Denied(format!(
            "{uri}: {words}; run this as root or as a member of the group libvirt"
        )),
        HypervisorError::Unavailable(words) => {
            HypervisorError::Unavailable(format!("{uri}: {words} (systemctl status libvirtd.socket virtqemud.socket)"))
        }
        other => HypervisorError::Refused(format!("cannot connect to {uri} (libvirt-uri): {other}")),
    }
}

fn by_code(code: Option<ErrorNumber>, from: Option<ErrorDomain>, message: &str) -> HypervisorError {
    let words = one_line(message);
    let of_transport = matches!(from, Some(ErrorDomain::Rpc | ErrorDomain::Remote));
    match code {
        Some(ErrorNumber::SystemError) if of_transport && message.contains("Permission denied") => HypervisorError::Denied(words),
        Some(ErrorNumber::SystemError | ErrorNumber::InternalError) if of_transport => HypervisorError::Unavailable(words),
        Some(
            ErrorNumber::NoConnect
            | ErrorNumber::Rpc
            | ErrorNumber::InvalidConn
            | ErrorNumber::NoServer
            | ErrorNumber::NoClient
            | ErrorNumber::UnknownHost
            | ErrorNumber::GnutlsError
            | ErrorNumber::Ssh
            | ErrorNumber::Libssh
            // Somebody else's work on that domain holds it: may pass.
            | ErrorNumber::OperationTimeout,
        ) => HypervisorError::Unavailable(words),
        Some(
            ErrorNumber::AuthFailed
            | ErrorNumber::AuthCancelled
            | ErrorNumber::AuthUnavailable
            | ErrorNumber::AccessDenied
            | ErrorNumber::OperationDenied,
        ) => HypervisorError::Denied(words),
        Some(ErrorNumber::NoMemory | ErrorNumber::ResourceBusy) => HypervisorError::Passing(words),
        Some(ErrorNumber::XmlError | ErrorNumber::XmlDetail | ErrorNumber::ConfigUnsupported) => HypervisorError::Refused(words),
        _ if is_wrong_secret(message) => HypervisorError::WrongSecret(words),
        _ if may_pass(message) => HypervisorError::Passing(words),
        Some(ErrorNumber::NoDomain | ErrorNumber::NoStoragePool) => HypervisorError::NotFound(words),
        Some(
            ErrorNumber::AgentUnresponsive
            | ErrorNumber::AgentUnsynced
            | ErrorNumber::AgentCommandTimeout
            | ErrorNumber::AgentCommandFailed,
        ) => HypervisorError::NoAgent(words),
        Some(ErrorNumber::ArgumentUnsupported) if message.contains("agent") => HypervisorError::NoAgent(words),
        _ => HypervisorError::Refused(words),
    }
}

/// Whether words of libvirt's, of QEMU's or of the kernel's, name a reason that may be gone a moment later.
fn may_pass(message: &str) -> bool {
    // No code tells these apart: most come as internal errors or as those of a system call.
    let passing = [
        "Cannot allocate memory",
        "cannot set up guest memory",
        "Resource temporarily unavailable",
        "Device or resource busy",
        "Address already in use",
        "Failed to get \"write\" lock",
        "Failed to get shared \"write\" lock",
    ];
    let has = |words: &str| message.contains(words);
    passing.into_iter().any(has)
        || (has("network '") && has("is not active"))
        // A bridge that the host's network makes later: "Cannot get interface MTU on 'br0': No such device".
        || (has("interface") && has("No such device"))
}

/// Whether QEMU says that a disk does not open with its secret (`qcrypto_block_luks_find_key` in its crypto/block-luks.c).
fn is_wrong_secret(message: &str) -> bool {
    message.contains("Invalid password, cannot unlock any keyslot")
}

/// QEMU's own words may have many lines.
fn one_line(words: &str) -> String {
    let lines: Vec<String> = words
        .lines()
        .map(|line| line.replace(char::is_control, " ").trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(code: ErrorNumber, from: ErrorDomain, message: &str) -> HypervisorError {
        by_code(Some(code), Some(from), message)
    }

    type Kind = fn(String) -> HypervisorError;

    #[test]
    fn errors_are_sorted_by_what_can_be_done() {
        let refused = "Failed to connect socket to '/run/libvirt/libvirt-sock': Connection refused";
        let closed = "internal error: client socket is closed";
        let denied = "Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied";
        let agentless = "argument unsupported: QEMU guest agent is not configured";
        let cases: [(ErrorNumber, ErrorDomain, &str, Kind); 10] = [
            (
                ErrorNumber::SystemError,
                ErrorDomain::Rpc,
                refused,
                HypervisorError::Unavailable,
            ),
            (
                ErrorNumber::InternalError,
                ErrorDomain::Rpc,
                closed,
                HypervisorError::Unavailable,
            ),
            (ErrorNumber::NoConnect, ErrorDomain::None, "x", HypervisorError::Unavailable),
            (ErrorNumber::SystemError, ErrorDomain::Rpc, denied, HypervisorError::Denied),
            (
                ErrorNumber::AuthUnavailable,
                ErrorDomain::Polkit,
                "x",
                HypervisorError::Denied,
            ),
            (ErrorNumber::NoDomain, ErrorDomain::Qemu, "x", HypervisorError::NotFound),
            (
                ErrorNumber::AgentUnresponsive,
                ErrorDomain::Qemu,
                "x",
                HypervisorError::NoAgent,
            ),
            (
                ErrorNumber::ArgumentUnsupported,
                ErrorDomain::Qemu,
                agentless,
                HypervisorError::NoAgent,
            ),
            (
                ErrorNumber::SystemError,
                ErrorDomain::Qemu,
                "Permission denied",
                HypervisorError::Refused,
            ),
            (ErrorNumber::InternalError, ErrorDomain::Qemu, "x", HypervisorError::Refused),
        ];
        for (code, from, message, kind) in cases {
            assert_eq!(sorted(code, from, message), kind(message.to_owned()), "{code:?} {from:?}");
        }
    }

    #[test]
    fn a_reason_that_may_pass_is_told_from_one_that_does_not() {
        use ErrorNumber::{
            ConfigUnsupported, InternalError, NoMemory, NoNetwork, OperationInvalid, ResourceBusy, SystemError, XmlError,
        };
        let passing = [
            (NoMemory, "out of memory"),
            (ResourceBusy, "resource busy: Lockspace resource '/srv/x' is locked"),
            (
                OperationInvalid,
                "Requested operation is not valid: network 'default' is not active",
            ),
            (SystemError, "Cannot get interface MTU on 'br0': No such device"),
            (
                InternalError,
                "process exited while connecting to monitor: qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory",
            ),
            (
                InternalError,
                "process exited while connecting to monitor: -device …: Failed to get \"write\" lock\nIs another process using the image?",
            ),
        ];
        for (code, message) in passing {
            let found = sorted(code, ErrorDomain::Qemu, message);
            assert!(matches!(found, HypervisorError::Passing(_)), "{message}: {found:?}");
        }
        let lasting = [
            (XmlError, "XML error: No PCI buses available, Device or resource busy"),
            (ConfigUnsupported, "unsupported configuration: no such machine"),
            (
                SystemError,
                "Cannot access storage file '/srv/vm/web.qcow2': No such file or directory",
            ),
            (NoNetwork, "Network not found: no network with matching name 'lan'"),
            (OperationInvalid, "domain is not active"),
        ];
        for (code, message) in lasting {
            let found = sorted(code, ErrorDomain::Qemu, message);
            assert!(matches!(found, HypervisorError::Refused(_)), "{message}: {found:?}");
        }
    }

    #[test]
    fn words_are_one_line() {
        let words = "internal error: process exited while connecting to monitor: 2026\n\tqemu: no such disk\r\n\n";
        let error = sorted(ErrorNumber::InternalError, ErrorDomain::Qemu, words);
        let wanted = "internal error: process exited while connecting to monitor: 2026; qemu: no such disk";
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn who_may_not_connect_reads_what_to_do() {
        let error = while_connecting("qemu:///system", HypervisorError::Denied("no".into()));
        assert!(
            error
                .to_string()
                .ends_with("run this as root or as a member of the group libvirt")
        );
    }
}
