//! Random numbers by seed, and the changes that make one input from others.

/// Splitmix64: small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }
}

/// How inputs of a target are changed.
#[derive(Clone, Copy, Debug)]
pub struct Style<'a> {
    /// Bytes are moved about in blocks of this many.
    pub grain: usize,
    /// Put in whole: names, keys and numbers that mean something to the target.
    pub words: &'a [&'a str],
    pub bytes_max: usize,
}

/// One to four changes on `input`; `other` lends parts.
pub fn mutate(random: &mut Random, style: Style<'_>, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        change(random, style, &mut bytes, other);
    }
    bytes.truncate(style.bytes_max);
    bytes
}

fn change(random: &mut Random, style: Style<'_>, bytes: &mut Vec<u8>, other: &[u8]) {
    // Values at which lengths, tags and counters turn into something else.
    const EDGES: [u8; 12] = [0, 1, 2, 16, 127, 128, 250, 251, 252, 253, 254, 255];
    if bytes.is_empty() {
        return insert_noise(random, style, bytes);
    }
    let at = random.below(bytes.len());
    match random.below(11) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = EDGES[random.below(EDGES.len())],
        2 => bytes[at] = random.draw() as u8,
        3 => bytes[at] = bytes[at].wrapping_add([1, 255][random.below(2)]),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(block(random, style, bytes.len()))),
        6 => {
            // Twice in a row, or again somewhere else.
            let copy = bytes[block(random, style, bytes.len())].to_vec();
            let to = align(random.below(bytes.len() + 1), style);
            bytes.splice(to..to, copy);
        }
        7 if !other.is_empty() => {
            let part = other[block(random, style, other.len())].to_vec();
            let to = align(at, style);
            let over = if random.below(2) == 0 { to } else { (to + part.len()).min(bytes.len()) };
            bytes.splice(to..over, part);
        }
        8 if !style.words.is_empty() => {
            let word = style.words[random.below(style.words.len())].as_bytes();
            let over = if random.below(2) == 0 { at } else { (at + word.len()).min(bytes.len()) };
            bytes.splice(at..over, word.iter().copied());
        }
        9 if style.grain == 1 => {
            // A length that no input has.
            let length: Vec<u8> = std::iter::once(253).chain((1u64 << random.below(63)).to_le_bytes()).collect();
            bytes.splice(at..at + 1, length);
        }
        _ => insert_noise(random, style, bytes),
    }
}

fn insert_noise(random: &mut Random, style: Style<'_>, bytes: &mut Vec<u8>) {
    let count = style.grain * (1 + random.below(16));
    let noise: Vec<u8> = (0..count).map(|_| random.draw() as u8).collect();
    let to = align(random.below(bytes.len() + 1), style);
    bytes.splice(to..to, noise);
}

fn align(at: usize, style: Style<'_>) -> usize {
    at - at % style.grain
}

/// Some blocks in a row, mostly few; within `length`, which is not 0.
fn block(random: &mut Random, style: Style<'_>, length: usize) -> std::ops::Range<usize> {
    let from = align(random.below(length), style);
    let most = if random.below(4) == 0 { length } else { 8 * style.grain };
    let to = from + style.grain * (1 + random.below(most / style.grain));
    from..to.min(length)
}
