//! Handles: Rust values that C holds by pointer.
//!
//! A handle is the address of an `Arc`, and the address is in a table while it lives. A pointer that is not in the table
//! under the type that a function expects is refused before it is touched, so handles that were freed, freed twice or mixed
//! up end in `OWLET_STATUS_INVALID_INPUT` (a stale pointer whose address was given out again for the same type cannot be
//! told apart; it is a live handle then). A call holds a share of its own, so a handle may be freed while it is in use, by
//! another thread or by a callback of that very call; the value goes when the call is done with it.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use owlet_runtime::{Error, ErrorKind, Result};

/// A type that C sees as an opaque struct, and what stands behind it. A handle can only be read and freed as what it is.
pub(crate) trait Handle: 'static {
    /// What the handle shares.
    type Target: Send + Sync + 'static;
    /// Its name in C.
    const NAME: &'static str;
}

/// Addresses of live handles, each with its type.
static LIVE: RwLock<Option<HashMap<usize, TypeId>>> = RwLock::new(None);

/// How an address is kept: leak checkers shall not take the table for an owner.
fn key<H: Handle>(handle: *const H) -> usize {
    !handle.addr()
}

/// Hands `value` to C.
pub(crate) fn give<H: Handle>(value: H::Target) -> *mut H {
    share(Arc::new(value))
}

/// Hands a share of `value` to C.
pub(crate) fn share<H: Handle>(value: Arc<H::Target>) -> *mut H {
    let handle = Arc::into_raw(value).cast::<H>().cast_mut();
    let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
    live.get_or_insert_default().insert(key(handle), TypeId::of::<H>());
    handle
}

/// A share of what `handle` stands for.
///
/// # Errors
/// `InvalidInput` for NULL and for what is no live handle of this type.
pub(crate) fn borrow<H: Handle>(handle: *const H) -> Result<Arc<H::Target>> {
    if handle.is_null() {
        return Err(Error::new(ErrorKind::InvalidInput, "NULL in place of a handle").needed(H::NAME));
    }
    let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
    if !is_live(live.as_ref(), handle) {
        let error = Error::new(ErrorKind::InvalidInput, "not a live handle");
        return Err(error.got("one that was freed, or of another type").needed(H::NAME));
    }
    let target = handle.cast::<H::Target>();
    // SAFETY: by the table, `target` came from `Arc::into_raw` of this type and its share was not taken back; it cannot be
    // while the table is locked.
    unsafe {
        Arc::increment_strong_count(target);
        Ok(Arc::from_raw(target))
    }
}

/// As [`borrow`], where NULL stands for none.
///
/// # Errors
/// `InvalidInput` for what is no live handle of this type.
pub(crate) fn borrow_optional<H: Handle>(handle: *const H) -> Result<Option<Arc<H::Target>>> {
    if handle.is_null() { Ok(None) } else { borrow(handle).map(Some) }
}

/// A reference to what `handle` stands for, for functions whose results point into it; NULL and what is no live handle of
/// this type give `None`.
///
/// # Safety
/// The caller's contract: the handle is not freed while the reference is used.
pub(crate) unsafe fn peek<'a, H: Handle>(handle: *const H) -> Option<&'a H::Target> {
    let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: by the table it points to a value of this type, which lives as long as the handle.
    is_live(live.as_ref(), handle).then(|| unsafe { &*handle.cast::<H::Target>() })
}

/// Takes the share back that [`give`] handed out. NULL, and what is no live handle of this type, is left alone.
pub(crate) fn free<H: Handle>(handle: *mut H) {
    let was_live = {
        let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
        let is_ours = is_live(live.as_ref(), handle);
        if let Some(live) = live.as_mut().filter(|_| is_ours) {
            live.remove(&key(handle));
        }
        is_ours
    };
    if was_live {
        // SAFETY: by the table it came from `Arc::into_raw` of this type, and it left the table just now, by this call.
        drop(unsafe { Arc::from_raw(handle.cast::<H::Target>()) });
    }
}

fn is_live<H: Handle>(live: Option<&HashMap<usize, TypeId>>, handle: *const H) -> bool {
    live.and_then(|live| live.get(&key(handle))) == Some(&TypeId::of::<H>())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Owl;
    struct Mouse;

    impl Handle for Owl {
        type Target = String;
        const NAME: &'static str = "owl";
    }

    impl Handle for Mouse {
        type Target = String;
        const NAME: &'static str = "mouse";
    }

    #[test]
    fn only_live_handles_of_the_type_are_read_and_freed() {
        let owl = give::<Owl>("Strix".to_owned());
        assert_eq!(*borrow(owl).expect("live"), "Strix");
        let kind = |result: Result<Arc<String>>| result.expect_err("refused").kind();
        assert_eq!(kind(borrow(owl.cast::<Mouse>())), ErrorKind::InvalidInput);
        assert_eq!(kind(borrow(std::ptr::null::<Owl>())), ErrorKind::InvalidInput);
        assert_eq!(kind(borrow(std::ptr::without_provenance::<Owl>(0x40))), ErrorKind::InvalidInput);
        free(owl.cast::<Mouse>());
        let share = borrow(owl).expect("not freed as what it is not");
        free(owl);
        free(owl);
        assert_eq!(*share, "Strix", "a share outlives its handle");
        assert_eq!(kind(borrow(owl)), ErrorKind::InvalidInput);
    }
}
