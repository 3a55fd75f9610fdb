//! Inputs that are nearly right: files of the corpus, changed here and there.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

/// What parsers stumble over.
const PIECES: [&[u8]; 24] = [
    b"",
    b"\0",
    b"\n",
    b"\"",
    b"'",
    b"[",
    b"]]",
    b"{",
    b"}",
    b"=",
    b"<",
    b"/>",
    b"&#0;",
    b"]]>",
    b"<!--",
    b"-1",
    b"18446744073709551616",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    "\u{202e}".as_bytes(),
    b"\xc3",
    b"../../",
    b"json:{",
];

/// One change of an input.
#[derive(Clone, Debug)]
pub enum Change {
    /// A part of it is replaced by one of the pieces.
    Put(Index, usize, usize),
    /// A bit is turned.
    Turn(Index, u8),
    /// A part of it stands twice.
    Double(Index, usize),
    /// It ends here.
    Cut(Index),
    /// From here on it is as another file of the corpus from there on.
    Join(Index, Index, Index),
}

pub fn changes() -> impl Strategy<Value = (Index, Vec<Change>)> {
    let change = prop_oneof![
        4 => (any::<Index>(), 0..12_usize, 0..PIECES.len()).prop_map(|(at, length, piece)| Change::Put(at, length, piece)),
        3 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Turn(at, bit)),
        1 => (any::<Index>(), 1..60_usize).prop_map(|(at, length)| Change::Double(at, length)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => any::<(Index, Index, Index)>().prop_map(|(at, other, from)| Change::Join(at, other, from)),
    ];
    (any::<Index>(), prop::collection::vec(change, 0..8))
}

/// The corpus of one kind: every file below `tests/fuzz/corpus/KIND`.
pub fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_unstable();
    assert!(!files.is_empty(), "no corpus of {kind}");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind)
}

/// A file of the corpus with the changes made.
pub fn changed(corpus: &[Vec<u8>], (first, changes): &(Index, Vec<Change>)) -> Vec<u8> {
    let mut input = first.get(corpus).clone();
    for change in changes {
        match change {
            Change::Put(at, length, piece) => {
                let at = at.index(input.len() + 1);
                let end = (at + length).min(input.len());
                input.splice(at..end, PIECES[*piece].iter().copied());
            }
            Change::Turn(at, bit) if !input.is_empty() => {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            Change::Double(at, length) => {
                let at = at.index(input.len() + 1);
                let part = input[at..(at + length).min(input.len())].to_vec();
                input.splice(at..at, part);
            }
            Change::Cut(at) => input.truncate(at.index(input.len() + 1)),
            Change::Join(at, other, from) => {
                let other = other.get(corpus);
                input.truncate(at.index(input.len() + 1));
                input.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
            Change::Turn(..) => {}
        }
    }
    input
}

/// Looks at an input. One that breaks what is promised stays in the corpus, so that it is looked at in every run from then on.
pub fn look(kind: &str, input: &[u8], look: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    if let Err(panic) = std::panic::catch_unwind(|| look(input)) {
        let name = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        fs::write(folder(kind).join(format!("found-{name:016x}")), input).unwrap();
        std::panic::resume_unwind(panic);
    }
}
