//! A volume's key from a master's: HKDF with SHA-512 (RFC 5869) over the volume key of the master's header.
//!
//! The info string names the purpose, its version and the volume, so that the key of one volume tells nothing of another's. There is no
//! salt: the master's key is as random as a key can be (RFC 5869, section 3.1).

use hkdf::Hkdf;
use sha2::Sha512;
use zeroize::Zeroize;

use crate::secret::Secret;

/// What comes before the volume's LUKS UUID in the info string.
const PURPOSE: &[u8] = b"virt-unlock/volume-key/v1:";
/// The length of a derived key in bytes: one block of SHA-512.
const LENGTH: usize = 64;
/// More of the stack than the derivation takes, in bytes.
const STACK: usize = 16 << 10;

/// The key by which the master opens the volume with this LUKS UUID.
pub fn derive(master_key: &Secret, volume_uuid: &str) -> Secret {
    let volume = volume_uuid.to_lowercase();
    let (key, ()) = Secret::filled(LENGTH, |key| expand(master_key.expose(), volume.as_bytes(), key));
    wipe_stack();
    key
}

#[inline(never)]
fn expand(master_key: &[u8], volume: &[u8], key: &mut [u8]) {
    let expanded = Hkdf::<Sha512>::new(None, master_key).expand_multi_info(&[PURPOSE, volume], key);
    if expanded.is_err() {
        unreachable!("HKDF gives 255 blocks, and this is one");
    }
}

/// The hash's state is moved about on the stack, and only where it is dropped at last it is wiped. A frame over the same place wipes
/// all of them.
#[inline(never)]
fn wipe_stack() {
    let mut frame = [0_u8; STACK];
    frame.zeroize();
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-55555555abcd";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Computed with Python's `hmac`, by the two steps of RFC 5869, section 2.
    #[test]
    fn it_is_hkdf_with_sha_512() {
        let counting: Vec<u8> = (0..64).collect();
        assert_eq!(
            hex(derive(&Secret::copy_of(&counting), UUID).expose()),
            "5697843179e9704a1ed71a2ee81b472637c625753fc11e4d98b2c23318f5fee2\
             45835d58f9f59e136aa00ee2863c3fa94ba45f8a67d5698ff00e06257239bb7b"
        );
        assert_eq!(
            hex(derive(&Secret::copy_of(&[0xff; 64]), UUID).expose()),
            "13ed615d3bd285dcb58b94e5f7417325485d2f3af8227832e7ab9fdb14c4343b\
             4c76058051238fd8abc404d49b2f27aa41babfb617cb264a0c80bffeaf9cb764"
        );
    }

    #[test]
    fn the_case_of_the_uuid_is_nothing_and_all_else_of_it_is() {
        let master = Secret::copy_of(&[7; 64]);
        let key = derive(&master, UUID);
        assert_eq!(derive(&master, &UUID.to_uppercase()).expose(), key.expose());
        assert_ne!(derive(&master, &UUID.replace('d', "e")).expose(), key.expose());
        assert_ne!(derive(&Secret::copy_of(&[8; 64]), UUID).expose(), key.expose());
    }

    /// A byte of a key that is nowhere else in this process: also what looks for it does not have it as a whole.
    fn byte(index: usize) -> u8 {
        u8::try_from((index * 167 + 91) % 251).unwrap()
    }

    /// How often the master's key, and the first half of the derived one, stand in this process's memory. `derived` is the derived key
    /// with each bit turned.
    fn copies(derived: &[u8]) -> [usize; 2] {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut found = [0, 0];
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let mut words = line.split_whitespace();
            let (range, mode) = (words.next().unwrap(), words.next().unwrap());
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
            if !mode.starts_with("rw") || end - start > 64 << 20 {
                continue;
            }
            let mut part = vec![0; usize::try_from(end - start).unwrap()];
            if memory.read_exact_at(&mut part, start).is_err() {
                continue;
            }
            for window in part.windows(32) {
                found[0] += usize::from((0..32).all(|index| window[index] == byte(index)));
                found[1] += usize::from((0..32).all(|index| window[index] == !derived[index]));
            }
            // What was copied here is not to be found in the next part.
            part.zeroize();
        }
        found
    }

    #[test]
    fn no_copy_of_a_key_is_left_behind() {
        let fill = |key: &mut [u8]| key.iter_mut().enumerate().for_each(|(index, at)| *at = byte(index));
        let (master, ()) = Secret::filled(64, fill);
        let key = derive(&master, UUID);
        let turned: Vec<u8> = key.expose().iter().map(|byte| !byte).collect();
        assert_eq!(copies(&turned), [1, 1], "the secrets themselves, and nothing else");
        drop((master, key));
        assert_eq!(copies(&turned), [0, 0]);
    }
}
