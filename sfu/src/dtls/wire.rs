//! Reads and writes the presentation language of TLS (RFC 5246, section 4).

/// Takes fields off the front of a message.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn take_u8(&mut self) -> Option<u8> {
        self.take_array().map(|[byte]| byte)
    }

    pub(super) fn take_u16(&mut self) -> Option<u16> {
        self.take_array().map(u16::from_be_bytes)
    }

    pub(super) fn take_u24(&mut self) -> Option<usize> {
        self.take_array().map(|[high, middle, low]| u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    pub(super) fn take_u8_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take_u8()?;
        self.take(usize::from(length))
    }

    pub(super) fn take_u16_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take_u16()?;
        self.take(usize::from(length))
    }

    pub(super) fn take_u24_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take_u24()?;
        self.take(length)
    }
}

/// The numbers of a list of them; `None` if half a number is left.
pub(super) fn u16_list(bytes: &[u8]) -> Option<impl Iterator<Item = u16> + Clone> {
    let (numbers, rest) = bytes.as_chunks::<2>();
    rest.is_empty().then(|| numbers.iter().map(|number| u16::from_be_bytes(*number)))
}

/// Appends fields to a message of our own, whose parts are all short.
pub(super) trait Writer {
    fn put_u16(&mut self, value: u16);
    fn put_u24(&mut self, value: usize);
    fn put_u8_vector(&mut self, bytes: &[u8]);
    fn put_u16_vector(&mut self, bytes: &[u8]);
    fn put_u24_vector(&mut self, bytes: &[u8]);
}

impl Writer for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u24(&mut self, value: usize) {
        let [.., high, middle, low] = value.to_be_bytes();
        self.extend_from_slice(&[high, middle, low]);
    }

    fn put_u8_vector(&mut self, bytes: &[u8]) {
        self.push(u8::try_from(bytes.len()).expect("a vector of ours is short"));
        self.extend_from_slice(bytes);
    }

    fn put_u16_vector(&mut self, bytes: &[u8]) {
        self.put_u16(u16::try_from(bytes.len()).expect("a vector of ours is short"));
        self.extend_from_slice(bytes);
    }

    fn put_u24_vector(&mut self, bytes: &[u8]) {
        self.put_u24(bytes.len());
        self.extend_from_slice(bytes);
    }
}
