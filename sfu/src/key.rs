//! Values with keys that become stale: a key names one value, and after its removal none, also where another value has
//! taken its place.
//!
//! A look-up is an index and a comparison, cheap enough for each packet. What may outlive a value (a timer, a queue, a
//! list of those to look after) holds its key and finds out with [`Keyed::get`].

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use crate::id::{PublicationId, SubscriptionId, TransportId};

/// Names one value of a [`Keyed`] store of things with such ids.
pub struct Key<Id> {
    index: u32,
    generation: u32,
    /// It only tells keys of different stores apart.
    of: PhantomData<fn() -> Id>,
}

impl<Id> Key<Id> {
    /// A key that names nothing, in any store.
    pub const NONE: Self = Self { index: u32::MAX, generation: u32::MAX, of: PhantomData };

    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation, of: PhantomData }
    }
}

// Derived implementations would ask for the same of `Id`.

impl<Id> Clone for Key<Id> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Id> Copy for Key<Id> {}

impl<Id> PartialEq for Key<Id> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}

impl<Id> Eq for Key<Id> {}

impl<Id> PartialOrd for Key<Id> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<Id> Ord for Key<Id> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.index, self.generation).cmp(&(other.index, other.generation))
    }
}

impl<Id> Hash for Key<Id> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}

impl<Id> fmt::Debug for Key<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.index, self.generation)
    }
}

/// Key of a transport.
pub type TransportKey = Key<TransportId>;
/// Key of a publication.
pub type PublicationKey = Key<PublicationId>;
/// Key of a subscription.
pub type SubscriptionKey = Key<SubscriptionId>;

struct Slot<T> {
    /// How many values it has held before.
    generation: u32,
    value: Option<T>,
}

/// Values in slots, which later values take over.
pub struct Keyed<Id, T> {
    slots: Vec<Slot<T>>,
    /// Empty slots, the last emptied last.
    free: Vec<u32>,
    of: PhantomData<fn() -> Id>,
}

impl<Id, T> Default for Keyed<Id, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), of: PhantomData }
    }
}

impl<Id, T> Keyed<Id, T> {
    /// Values that it holds.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a value.
    ///
    /// # Panics
    ///
    /// With more than 2^32 - 1 values, which no memory holds.
    pub fn insert(&mut self, value: T) -> Key<Id> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Key::new(index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).expect("fewer values than 2^32");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key::new(index, 0)
    }

    /// Takes a value out; its key is stale from now on. `None`: it was before.
    pub fn remove(&mut self, key: Key<Id>) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        // A slot that has been taken 2^32 times begins anew: no key is that old.
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// The value of a key; `None` if it is stale.
    #[inline]
    pub fn get(&self, key: Key<Id>) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// The value of a key; `None` if it is stale.
    #[inline]
    pub fn get_mut(&mut self, key: Key<Id>) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// All values with their keys, slot by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Key<Id>, &T)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| Some((Key::new(index, slot.generation), slot.value.as_ref()?)))
    }

    /// All values with their keys, slot by slot.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key<Id>, &mut T)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(index, slot)| Some((Key::new(index, slot.generation), slot.value.as_mut()?)))
    }
}

/// For keys that are known not to be stale; panics where one is.
impl<Id, T> Index<Key<Id>> for Keyed<Id, T> {
    type Output = T;

    #[inline]
    fn index(&self, key: Key<Id>) -> &T {
        self.get(key).expect("a key that is not stale")
    }
}

impl<Id, T> IndexMut<Key<Id>> for Keyed<Id, T> {
    #[inline]
    fn index_mut(&mut self, key: Key<Id>) -> &mut T {
        self.get_mut(key).expect("a key that is not stale")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_names_its_value_alone_also_after_another_has_taken_the_slot() {
        let mut values: Keyed<(), _> = Keyed::default();
        let first = values.insert("first");
        assert_eq!(values.remove(first), Some("first"));
        let second = values.insert("second");
        assert_eq!(second.index, first.index, "the slot is used again");
        assert_eq!(values.get(first), None);
        assert_eq!(values.get_mut(first), None);
        assert_eq!(values.remove(first), None);
        assert_eq!(values[second], "second");
    }

    #[test]
    fn the_key_of_nothing_names_nothing() {
        let mut values: Keyed<(), _> = Keyed::default();
        values.insert(1);
        assert_eq!(values.get(Key::NONE), None);
        assert_eq!(values.remove(Key::NONE), None);
    }

    #[test]
    #[should_panic(expected = "a key that is not stale")]
    fn a_stale_key_has_no_value_to_index() {
        let mut values: Keyed<(), _> = Keyed::default();
        let key = values.insert(1);
        values.remove(key);
        values[key] += 1;
    }

    proptest! {
        #[test]
        fn a_store_holds_what_a_map_of_its_keys_holds(steps in vec((any::<bool>(), 0usize..50), 1..200)) {
            let mut values: Keyed<(), _> = Keyed::default();
            let (mut model, mut keys) = (HashMap::new(), Vec::new());
            for (number, (adds, at)) in steps.into_iter().enumerate() {
                if adds {
                    let key = values.insert(number);
                    prop_assert_eq!(model.insert(key, number), None, "every key is new");
                    keys.push(key);
                } else if let Some(key) = keys.get(at) {
                    prop_assert_eq!(values.remove(*key), model.remove(key));
                }
                prop_assert!(keys.iter().all(|key| values.get(*key) == model.get(key)));
                prop_assert_eq!((values.len(), values.is_empty()), (model.len(), model.is_empty()));
                let all: HashMap<_, _> = values.iter().map(|(key, value)| (key, *value)).collect();
                prop_assert_eq!(&all, &model);
                prop_assert!(values.iter_mut().all(|(key, value)| model.get(&key) == Some(value)));
            }
        }
    }
}
