//! Numbers that wrap, made ones that do not.

/// Extends numbers of some bits: each is taken for the nearest to the one before it.
#[derive(Debug, Clone)]
pub struct Unwrapper {
    bits: u32,
    last: Option<i64>,
}

impl Unwrapper {
    pub fn new(bits: u32) -> Self {
        Self { bits, last: None }
    }

    pub fn unwrap(&mut self, number: u64) -> i64 {
        let range = 1i64 << self.bits;
        let number = number as i64 & (range - 1);
        let extended = match self.last {
            None => range + number,
            Some(last) => {
                let ahead = (number - last).rem_euclid(range);
                last + if ahead < range / 2 { ahead } else { ahead - range }
            }
        };
        self.last = Some(extended);
        extended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_across_the_wrap_in_both_directions() {
        let mut numbers = Unwrapper::new(8);
        assert_eq!([250, 2, 254, 3].map(|number| numbers.unwrap(number)), [506, 514, 510, 515]);
    }
}
