//! Reading what operators name by path: configuration, secrets, local sources. Symlinks are followed here, since a
//! mounted ConfigMap is made of them; nothing is written.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{Error, Result, Stat};

/// Opens a regular file for reading.
pub fn open_read(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // NONBLOCK: a fifo by that name must not hang the open.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(|e| Error::new("open", path, e))?;
    let meta = file.metadata().map_err(|e| Error::new("stat", path, e))?;
    if !meta.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(Error::new("open", path, source));
    }
    Ok(file)
}

/// Reads a whole small file; fails when it holds more than `limit` bytes.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_all(&open_read(path)?, limit).map_err(|e| Error::new("read", path, e))
}

/// Which boot of the machine this is; `None` where the kernel does not say.
pub fn boot_id() -> Option<String> {
    let bytes = read_limited(Path::new("/proc/sys/kernel/random/boot_id"), 128).ok()?;
    let id = String::from_utf8(bytes).ok()?.trim().to_owned();
    (!id.is_empty()).then_some(id)
}

pub(super) fn read_all(mut file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it holds more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Metadata of what `path` names, symlinks followed.
pub fn stat_path(path: &Path) -> Result<Stat> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .map(|x| Stat::from_statx(&x))
        .map_err(|e| Error::new("stat", path, e))
}

/// The `*.yaml` and `*.yml` files in a directory, or the file itself, sorted by name; hidden names (as the `..data` of
/// a ConfigMap) left out.
pub fn documents_in(path: &Path) -> Result<Vec<PathBuf>> {
    let meta = std::fs::metadata(path).map_err(|e| Error::new("open", path, e))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::new("list directory", path, e))? {
        let entry = entry.map_err(|e| Error::new("list directory", path, e))?.path();
        let hidden = entry.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden && !entry.is_dir() {
            files.push(entry);
        }
    }
    files.sort();
    Ok(files)
}

/// The path from the root of the file system, symlinks left as they are.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::new("find", path, e))
}

/// The path from the root of the file system, symlinks resolved; it must exist.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| Error::new("find", path, e))
}
