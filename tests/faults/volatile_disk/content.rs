//! What becomes of a file's content that was not synced: length and bytes apart from each other, each page as it was
//! after any of the writes, torn at a sector's limit, or zeros, or what was on the disk before.

/// A change of a file's content.
pub(super) enum Write {
    At(u64, Vec<u8>),
    Length(u64),
}

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// The content after a write.
pub(super) fn apply(content: &mut Vec<u8>, write: &Write) {
    match write {
        Write::At(at, bytes) => {
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(bytes);
        }
        Write::Length(length) => content.resize(*length as usize, 0),
    }
}

/// What a power loss leaves of a file whose durable content is `old`; `stale` where new blocks may show what they held for
/// others before.
pub(super) fn after_loss(old: &[u8], writes: &[Write], stale: bool, rng: &mut fastrand::Rng) -> Vec<u8> {
    match rng.u8(0..4) {
        0 => return old.to_vec(),
        1 => {
            let mut content = old.to_vec();
            writes.iter().for_each(|write| apply(&mut content, write));
            return content;
        }
        _ => {}
    }
    let lengths = lengths(old.len(), writes);
    let longest = lengths.iter().copied().max().unwrap_or(old.len());
    let mut content = old.to_vec();
    content.resize(longest, 0);
    if stale && rng.bool() {
        rng.fill(&mut content[old.len()..]);
    }
    let reached = reached(longest, writes.len(), rng);
    for (nth, write) in writes.iter().enumerate() {
        let (start, end) = match write {
            Write::At(at, bytes) => (*at as usize, *at as usize + bytes.len()),
            Write::Length(length) => ((*length as usize).min(longest), longest),
        };
        let mut at = start;
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            if nth < reached[at / SECTOR] {
                match write {
                    Write::At(_, bytes) => content[at..next].copy_from_slice(&bytes[at - start..next - start]),
                    Write::Length(_) => content[at..next].fill(0),
                }
            }
            at = next;
        }
    }
    content.truncate(lengths[rng.usize(0..lengths.len())]);
    content
}

/// The length before the first write and after each.
fn lengths(old: usize, writes: &[Write]) -> Vec<usize> {
    let mut lengths = vec![old];
    let mut length = old;
    for write in writes {
        length = match write {
            Write::At(at, bytes) => length.max(*at as usize + bytes.len()),
            Write::Length(length) => *length as usize,
        };
        lengths.push(length);
    }
    lengths
}

/// How many of the writes reached each sector: the same within a page, mostly.
fn reached(length: usize, writes: usize, rng: &mut fastrand::Rng) -> Vec<usize> {
    let mut reached = Vec::new();
    for _ in 0..length.div_ceil(PAGE) {
        let (whole, torn) = (rng.usize(0..=writes), rng.u8(0..4) == 0);
        reached.extend((0..PAGE / SECTOR).map(|_| if torn { rng.usize(0..=writes) } else { whole }));
    }
    reached
}
