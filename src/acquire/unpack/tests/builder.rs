//! A tar written block by block, so that it can be wrong in any way.

use tar::Header;

/// An archive being built.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// A header with everything sound; `tweak` may change that before the checksum is made.
    pub(super) fn entry(self, flag: u8, name: &[u8], content: &[u8], tweak: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkflag[0] = flag;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tweak(&mut header);
        header.set_cksum();
        self.raw(header.as_bytes()).content(content)
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes, filled up to a whole block.
    pub(super) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), content, |_| ())
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", |header| header.set_mode(0o755))
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), b"", |header| set_link(header, target.as_bytes()))
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), b"", |header| set_link(header, target.as_bytes()))
    }

    /// An extended header with these records.
    pub(super) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.entry(b'x', b"PaxHeaders/x", &records_of(records), |_| ())
    }

    pub(super) fn global(self, records: &[(&str, &str)]) -> Self {
        self.entry(b'g', b"pax_global_header", &records_of(records), |_| ())
    }

    /// A GNU long name (`L`) or long link (`K`).
    pub(super) fn long(self, flag: u8, name: &[u8]) -> Self {
        self.entry(flag, b"././@LongLink", &[name, b"\0"].concat(), |_| ())
    }

    /// The mark of the end.
    pub(super) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub(super) fn set_link(header: &mut Header, target: &[u8]) {
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
}

fn records_of(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n);
        format!("{}{rest}", length.unwrap())
    };
    records.iter().map(record).collect::<String>().into_bytes()
}
