//! Writes every real frame to a file of its own, as a corpus for the fuzzer: `unpack FOLDER`.

use std::path::PathBuf;
use std::{env, fs, io};
use usnet_fuzz::corpus;

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: unpack FOLDER"));
    };
    fs::create_dir_all(&folder)?;
    for (number, frame) in corpus::ethernet().enumerate() {
        fs::write(folder.join(format!("{number:04}-{}.bin", frame.capture)), frame.bytes)?;
    }
    Ok(())
}
