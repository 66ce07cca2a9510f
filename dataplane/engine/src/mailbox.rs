//! The two bounded queues between an agent and a worker. A full queue refuses; it never blocks or grows.

use alloc::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::command::{Event, Input};
use crate::limits::MAILBOX_LEN;

/// The worker's end.
#[derive(Clone, Debug)]
pub struct Mailbox {
    pub(crate) inputs: Arc<ArrayQueue<Input>>,
    pub(crate) events: Arc<ArrayQueue<Event>>,
}

/// The agent's end.
#[derive(Clone, Debug)]
pub struct MailboxHandle {
    inputs: Arc<ArrayQueue<Input>>,
    events: Arc<ArrayQueue<Event>>,
}

/// Creates a mailbox and the agent's handle to it.
#[must_use]
pub fn mailbox() -> (Mailbox, MailboxHandle) {
    let inputs = Arc::new(ArrayQueue::new(MAILBOX_LEN));
    let events = Arc::new(ArrayQueue::new(MAILBOX_LEN));
    (Mailbox { inputs: inputs.clone(), events: events.clone() }, MailboxHandle { inputs, events })
}

impl Mailbox {
    /// The next input, if any.
    #[must_use]
    pub fn recv(&self) -> Option<Input> {
        self.inputs.pop()
    }

    /// Queues an event. Gives it back when the mailbox is full.
    ///
    /// # Errors
    /// The event itself, when the mailbox is full.
    #[expect(clippy::result_large_err, reason = "the event itself is what the caller gets back")]
    pub fn send(&self, event: Event) -> Result<(), Event> {
        self.events.push(event)
    }
}

impl MailboxHandle {
    /// Whether an event waits.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Queues an input. Gives it back when the mailbox is full: the caller keeps it and tries again.
    ///
    /// # Errors
    /// The input itself, when the mailbox is full.
    pub fn send(&self, input: Input) -> Result<(), Input> {
        self.inputs.push(input)
    }

    /// The next event, if any.
    #[must_use]
    pub fn recv(&self) -> Option<Event> {
        self.events.pop()
    }
}
