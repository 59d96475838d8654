//! Many short byte strings in one piece of memory: a hundred thousand of their own would cost more to
//! allocate than to work on.

/// Byte strings, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Rows {
    /// Empty, with this capacity.
    pub fn with_room(rows: usize) -> Self {
        Self { bytes: Vec::new(), ends: Vec::with_capacity(rows) }
    }

    /// Appends one.
    pub fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }

    /// Appends what `write` appends to the bytes.
    pub fn push_with<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        write(&mut self.bytes)?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Forgets them all; their memory is used again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Reserves room for more that are as long as those here, unless these are of an odd length.
    pub fn reserve(&mut self, rows: usize) {
        let each = self.bytes.len() / self.len().max(1);
        self.bytes.reserve(each.min(USUAL) * rows);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// One of them; nothing where there is none.
    pub fn get(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(row).copied().unwrap_or_default();
        self.bytes.get(start.unwrap_or_default()..end).unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// Some of them, in this order.
    #[must_use]
    pub fn part(&self, rows: impl ExactSizeIterator<Item = usize>) -> Self {
        let mut part = Self::with_room(rows.len());
        // As long as the others are in the middle.
        part.bytes.reserve(self.bytes.len() / self.len().max(1) * rows.len() + rows.len());
        rows.for_each(|row| part.push(self.get(row)));
        part
    }
}

/// Bytes of a string that most are shorter than: to ask for more at once on account of one would be to trust
/// whoever has written that.
const USUAL: usize = 64;

/// First bytes of a string that are looked at to put strings in order.
const LOOK: usize = 64;

/// The places of byte strings in their order. Most bytes of a view's keys are the same in all of them: what
/// is compared first are the first eight that are not, as one number.
pub fn order(keys: &[&[u8]]) -> Vec<usize> {
    let first: [u8; LOOK] = padded(keys.first().copied().unwrap_or_default());
    let mut differ = [0; LOOK];
    for key in keys {
        let key: [u8; LOOK] = padded(key);
        differ.iter_mut().zip(key.iter().zip(&first)).for_each(|(differ, (a, b))| *differ |= a ^ b);
    }
    let places: Vec<usize> = differ
        .iter()
        .enumerate()
        .filter(|(_, differ)| **differ != 0)
        .map(|(place, _)| place)
        .take(8)
        .collect();
    let numbered = |(row, key): (usize, &&[u8])| {
        let byte = |place: &usize| u64::from(key.get(*place).copied().unwrap_or_default());
        (places.iter().fold(0, |number, place| number << 8 | byte(place)), row)
    };
    let mut numbered: Vec<(u64, usize)> = keys.iter().enumerate().map(numbered).collect();
    let key = |row: usize| keys.get(row).copied().unwrap_or_default();
    numbered.sort_unstable_by(|(number, one), (other_number, other)| {
        number.cmp(other_number).then_with(|| key(*one).cmp(key(*other)))
    });
    numbered.into_iter().map(|(_, row)| row).collect()
}

/// The first bytes, and zeros where there are fewer.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0; N];
        padded.iter_mut().zip(bytes).for_each(|(byte, of_bytes)| *byte = *of_bytes);
        padded
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_come_in_their_order(
            prefix in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..4),
                prop::collection::vec(any::<u8>(), LOOK - 3..LOOK + 3),
            ],
            keys in prop::collection::vec(prop::collection::vec(0_u8..2, 0..30), 0..60),
        ) {
            let owned: Vec<_> = keys.iter().map(|key| [&*prefix, key].concat()).collect();
            let keys: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
            let ordered: Vec<&[u8]> = order(&keys).into_iter().map(|place| keys[place]).collect();
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            prop_assert_eq!(ordered, sorted);
        }
    }
}
