//! Threads that own a value: order, cancelling, panics, ends.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use owlet_host::{CLOSING_TIME, CancelToken, Progress, Worker, background};
use owlet_runtime::{Error, ErrorKind, Result};

/// Far more than any step of these tests takes, and less than a test may hang.
const LONG: Duration = Duration::from_secs(20);

/// Works until it is cancelled.
fn until_cancelled(cancel: &CancelToken) -> Result<()> {
    let until = Instant::now() + LONG;
    while Instant::now() < until {
        cancel.check()?;
        thread::sleep(Duration::from_millis(1));
    }
    Err(Error::new(ErrorKind::Internal, "nobody cancelled"))
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("it fails").kind()
}

/// An executor of one future, with the wakers that any has.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park_timeout(LONG),
        }
    }
}

#[test]
fn calls_are_made_in_their_order_on_one_thread() {
    let worker = Worker::start("test", Vec::new()).expect("a thread");
    let no_cancel = CancelToken::new();
    let calls: Vec<_> = (0..50)
        .map(|number| {
            worker.submit(&no_cancel, move |seen: &mut Vec<i32>, _| {
                seen.push(number);
                Ok(thread::current().id())
            })
        })
        .collect();
    let threads: Vec<_> = calls.into_iter().map(|call| call.wait().expect("it works")).collect();
    assert!(threads.iter().all(|id| *id == threads[0] && *id != thread::current().id()));
    let seen = worker.submit(&no_cancel, |seen, _| Ok(seen.clone())).wait().expect("it works");
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_result_is_awaited_by_any_executor() {
    let worker = Worker::start("test", 41).expect("a thread");
    let (open, gate) = mpsc::channel();
    let call = worker.submit(&CancelToken::new(), move |value, _| {
        gate.recv_timeout(LONG).expect("opened");
        Ok(*value + 1)
    });
    let opener = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        open.send(()).expect("the worker listens");
    });
    assert_eq!(block_on(call).expect("it works"), 42);
    opener.join().expect("no panic");
}

#[test]
fn a_call_is_cancelled_by_its_token_by_dropping_its_result_and_by_dropping_the_worker() {
    let worker = Worker::start("test", ()).expect("a thread");
    let cancel = CancelToken::new();
    let running = worker.submit(&cancel, |(), cancel| until_cancelled(cancel));
    let waiting = worker.submit(&cancel, |(), _| Ok(()));
    cancel.cancel();
    assert_eq!(kind(running.wait()), ErrorKind::Cancelled);
    assert_eq!(kind(waiting.wait()), ErrorKind::Cancelled);

    let (other, was_begun) = (CancelToken::new(), Arc::new(AtomicBool::new(false)));
    let begun = Arc::clone(&was_begun);
    let dropped = worker.submit(&other, move |(), cancel| {
        begun.store(true, Ordering::Relaxed);
        until_cancelled(cancel)
    });
    while !was_begun.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    drop(dropped);
    // The next call is made, so the one before has ended; and the token that both had is nobody's business.
    worker.submit(&other, |(), _| Ok(())).wait().expect("another call of the same token");
    assert!(!other.is_cancelled());

    let (running, waiting) =
        (worker.submit(&other, |(), cancel| until_cancelled(cancel)), worker.submit(&other, |(), _| Ok("never begun")));
    let start = Instant::now();
    drop(worker);
    assert!(start.elapsed() < CLOSING_TIME, "closing cancels");
    assert_eq!(kind(running.wait()), ErrorKind::Cancelled);
    assert_eq!(kind(waiting.wait()), ErrorKind::Cancelled);
}

#[test]
fn a_panic_is_an_error_of_its_call_and_of_all_that_follow() {
    let worker = Worker::start("test", 0).expect("a thread");
    let no_cancel = CancelToken::new();
    let panicked = worker.submit(&no_cancel, |_, _| -> Result<()> { panic!("number {}", 7) });
    let error = panicked.wait().expect_err("it panicked");
    assert_eq!((error.kind(), error.found()), (ErrorKind::Internal, Some("number 7")));
    let error = worker.submit(&no_cancel, |value, _| Ok(*value)).wait().expect_err("the value may be broken");
    assert!(error.kind() == ErrorKind::Internal && error.to_string().contains("earlier"), "{error}");
    let lost = background("test", &no_cancel, |_| -> Result<()> { panic!("text") });
    assert_eq!(lost.wait().expect_err("it panicked").found(), Some("text"));
}

#[test]
fn work_in_slices_lets_others_in_rests_and_is_woken_or_cancelled() {
    let worker = Worker::start("test", 0).expect("a thread");
    let no_cancel = CancelToken::new();
    let may_rest = Arc::new(AtomicBool::new(true));
    let n_slices = Arc::new(AtomicUsize::new(0));
    let (rests, counted) = (Arc::clone(&may_rest), Arc::clone(&n_slices));
    let work = worker.submit_slices(&no_cancel, move |value: &mut i32, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(match *value {
            0 => Progress::More,
            _ if rests.load(Ordering::Relaxed) => Progress::Rest,
            value => Progress::Done(value),
        })
    });
    // Comes between two slices of work that would go on for ever.
    let set = worker.submit(&no_cancel, |value, _| {
        *value = 5;
        Ok(())
    });
    set.wait().expect("its turn comes");
    while n_slices.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    // Everything that waits was done, so the work rests now or will.
    worker.submit(&no_cancel, |_, _| Ok(())).wait().expect("its turn comes");
    worker.submit(&no_cancel, |_, _| Ok(())).wait().expect("its turn comes");
    let before = n_slices.load(Ordering::Relaxed);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(n_slices.load(Ordering::Relaxed), before, "it rests");
    may_rest.store(false, Ordering::Relaxed);
    worker.wake();
    assert_eq!(work.wait().expect("it is done"), 5);

    let cancel = CancelToken::new();
    let resting = worker.submit_slices(&cancel, |_, cancel| cancel.check().map(|()| Progress::<()>::Rest));
    cancel.cancel();
    assert_eq!(kind(resting.wait()), ErrorKind::Cancelled);
    let resting = worker.submit_slices(&no_cancel, |_, _| Ok(Progress::<()>::Rest));
    drop(worker);
    assert_eq!(kind(resting.wait()), ErrorKind::Cancelled);
}

#[test]
fn work_that_is_woken_while_it_decides_to_rest_goes_on() {
    let worker = Worker::start("test", 0).expect("a thread");
    let ((deciding, decides), (decided, decision)) = (mpsc::channel(), mpsc::channel::<()>());
    // Not for ever, if it rests after all.
    let cancel = CancelToken::after(Duration::from_secs(60));
    let work = worker.submit_slices(&cancel, move |n_slices: &mut i32, cancel| {
        cancel.check()?;
        *n_slices += 1;
        if *n_slices > 1 {
            return Ok(Progress::Done(*n_slices));
        }
        deciding.send(()).expect("heard");
        decision.recv().expect("told");
        Ok(Progress::Rest)
    });
    decides.recv().expect("it began");
    worker.wake();
    decided.send(()).expect("heard");
    assert_eq!(work.wait().expect("it goes on"), 2);
}

#[test]
fn a_worker_may_be_dropped_by_its_own_call() {
    let worker = Arc::new(Worker::start("test", ()).expect("a thread"));
    let (send, last) = mpsc::channel::<Arc<Worker<()>>>();
    let call = worker.submit(&CancelToken::new(), move |(), cancel| {
        drop(last.recv_timeout(LONG).expect("the last owner"));
        cancel.check()
    });
    send.send(worker).expect("the call listens");
    assert_eq!(kind(call.wait()), ErrorKind::Cancelled, "it cancelled itself");
}
