//! What waits to be said to the coordinator, in order. A child's output never holds up a step and never pushes out a
//! report: when the coordinator is slow or away, the oldest lines go.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use liftlock_proto::v1::OutputLine;
use liftlock_proto::v1::agent_message::Message;
use tokio::sync::Notify;

/// How many lines of output wait at most. Reports are few and all wait.
const LINES: usize = 512;

/// The longest line that is forwarded, in bytes; the rest of it is cut off.
const LINE_BYTES: usize = 4096;

/// The queue.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    lines: usize,
    dropped: usize,
}

impl Outbox {
    /// Puts a message at the end. Never blocks.
    pub(crate) fn push(&self, message: Message) {
        let mut waiting = self.lock();
        if let Message::OutputLine(line) = &message {
            if waiting.lines == LINES {
                waiting.drop_oldest_line();
            }
            waiting.lines += 1;
            let line = cut(line);
            waiting.messages.push_back(Message::OutputLine(line));
        } else {
            waiting.messages.push_back(message);
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// What waits was asked for in a session that is over. The facts are told all the same.
    pub(crate) fn forget_what_facts_answer(&self) {
        for message in &mut self.lock().messages {
            if let Message::Facts(facts) = message {
                facts.answers = 0;
            }
        }
    }

    /// Takes the oldest message, waiting for one. Dropped before it is ready, it takes none.
    pub(crate) async fn next(&self) -> Message {
        loop {
            let more = self.more.notified();
            if let Some(message) = self.lock().take() {
                return message;
            }
            more.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn drop_oldest_line(&mut self) {
        let oldest = self.messages.iter().position(|message| matches!(message, Message::OutputLine(_)));
        if let Some(oldest) = oldest {
            self.messages.remove(oldest);
            self.lines -= 1;
            self.dropped += 1;
        }
    }

    fn take(&mut self) -> Option<Message> {
        let mut message = self.messages.pop_front()?;
        if let Message::OutputLine(line) = &mut message {
            self.lines -= 1;
            let dropped = std::mem::take(&mut self.dropped);
            if dropped > 0 {
                line.line = format!("({dropped} lines before this were dropped) {}", line.line);
            }
        }
        Some(message)
    }
}

fn cut(line: &OutputLine) -> OutputLine {
    let end = line.line.floor_char_boundary(LINE_BYTES);
    OutputLine { line: line.line.get(..end).unwrap_or_default().to_owned(), ..line.clone() }
}

#[cfg(test)]
mod tests {
    use liftlock_proto::v1::{PrepareReport, StepReport};

    use super::*;

    fn line(text: &str) -> Message {
        let text = text.to_owned();
        Message::OutputLine(OutputLine { plan_id: String::new(), step: String::new(), line: text })
    }

    fn drain(outbox: &Outbox) -> Vec<Message> {
        let mut waiting = outbox.lock();
        std::iter::from_fn(|| waiting.take()).collect()
    }

    #[test]
    fn the_oldest_lines_go_first_and_no_report_ever_does() {
        let outbox = Outbox::default();
        outbox.push(line("first"));
        outbox.push(Message::StepReport(StepReport::default()));
        for number in 0..LINES {
            outbox.push(line(&number.to_string()));
        }
        let drained = drain(&outbox);
        assert_eq!(drained.len(), LINES + 1);
        assert!(
            matches!(drained[0], Message::StepReport(_)),
            "the report was dropped, or the first line was not"
        );
        assert_eq!(drained[1], line("(1 lines before this were dropped) 0"));
        assert_eq!(drained[LINES], line(&(LINES - 1).to_string()));
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let outbox = Outbox::default();
        outbox.push(line(&"é".repeat(LINE_BYTES)));
        assert_eq!(drain(&outbox), [line(&"é".repeat(LINE_BYTES / 2))]);
    }

    #[tokio::test]
    async fn next_waits_for_a_message() {
        let outbox = Outbox::default();
        let report = Message::PrepareReport(PrepareReport::default());
        let (got, ()) = tokio::join!(outbox.next(), async {
            tokio::task::yield_now().await;
            outbox.push(report.clone());
        });
        assert_eq!(got, report);
    }
}
