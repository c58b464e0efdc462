//! A tar written block by block, so that it can be wrong in any way.

use tar::Header;

/// An archive being built.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    /// A header with everything sound; `tweak` may change that before the checksum is made.
    pub(crate) fn entry(self, flag: u8, name: &[u8], content: &[u8], tweak: impl FnOnce(&mut Header)) -> Self {
        self.header(flag, name, content.len() as u64, tweak).content(content)
    }

    /// The same with no content after it, whatever its size says.
    pub(crate) fn header(self, flag: u8, name: &[u8], size: u64, tweak: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkflag[0] = flag;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        tweak(&mut header);
        header.set_cksum();
        self.raw(header.as_bytes())
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes, filled up to a whole block.
    pub(crate) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), content, |_| ())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", |header| header.set_mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), b"", |header| set_link(header, target.as_bytes()))
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), b"", |header| set_link(header, target.as_bytes()))
    }

    /// An extended header with these records.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.extended(&records_of(records))
    }

    /// An extended header with this content.
    pub(crate) fn extended(self, content: &[u8]) -> Self {
        self.entry(b'x', b"PaxHeaders/x", content, |_| ())
    }

    pub(crate) fn global(self, records: &[(&str, &str)]) -> Self {
        self.entry(b'g', b"pax_global_header", &records_of(records), |_| ())
    }

    /// A GNU long name (`L`) or long link (`K`).
    pub(crate) fn long(self, flag: u8, name: &[u8]) -> Self {
        self.entry(flag, b"././@LongLink", &[name, b"\0"].concat(), |_| ())
    }

    /// An old GNU sparse file (`S`): parts in the header, more in blocks behind it, four and twenty-one each.
    pub(crate) fn old_sparse(self, name: &str, size: u64, parts: &[(u64, u64)], content: &[u8]) -> Self {
        let octal = |value: u64| format!("{value:011o}\0").into_bytes();
        let mut slots: Vec<u8> =
            parts.iter().flat_map(|&(offset, length)| [octal(offset), octal(length)].concat()).collect();
        let in_header: Vec<u8> = slots.drain(..slots.len().min(4 * 24)).collect();
        let tar = self.header(b'S', name.as_bytes(), content.len() as u64, |header| {
            let block = header.as_mut_bytes();
            block[386..386 + in_header.len()].copy_from_slice(&in_header);
            block[482] = u8::from(!slots.is_empty());
            block[483..495].copy_from_slice(&octal(size));
        });
        let blocks: Vec<Vec<u8>> = slots.chunks(21 * 24).map(<[u8]>::to_vec).collect();
        let last = blocks.len();
        let more = blocks.into_iter().enumerate().flat_map(|(at, mut block)| {
            block.resize(512, 0);
            block[504] = u8::from(at + 1 < last);
            block
        });
        let more: Vec<u8> = more.collect();
        tar.raw(&more).content(content)
    }

    /// The mark of the end.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub(crate) fn set_link(header: &mut Header, target: &[u8]) {
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
