//! The dispatcher decides what happens next: a state machine without threads, clocks or files. Messages go in, actions come out.
//!
//! It knows instances by their position in the graph, and of each only what it depends on and how far it is:
//!
//! ```text
//!            inputs known           a place is free              its work ended
//!  waiting ───────────────▶ asked ─▶ ready ─────────▶ running ────────────────▶ delivering ─▶ done
//!     ▲                       │ cached                   │ damaged                  ▲
//!     │                       └──────────────────────────┼──────────────────────────┘
//!     └──────────────────────────────────────────────────┘ (and whoever gave what is damaged)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::{Outcome, failure::Failure};
use crate::store::Digest;

/// An instance is tried again this often when its inputs or results are found damaged.
const RECOVERIES: usize = 5;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// What is known of an instance all of whose inputs are known: the answer to [`Action::Decide`].
    Decided {
        /// Which.
        index: usize,
        /// Its key.
        key: Digest,
        /// Whether the store has its result.
        cached: bool,
        /// Whether its results must be copied for people.
        deliver: bool,
    },
    /// Its work ended well.
    Finished {
        /// Which.
        index: usize,
        /// How: executed, or found after all.
        outcome: Outcome,
        /// Whether its results must be copied for people.
        deliver: bool,
    },
    /// Its results were copied.
    Delivered {
        /// Which.
        index: usize,
    },
    /// It failed.
    Failed {
        /// Which.
        index: usize,
        /// Why.
        failure: Failure,
    },
    /// Something that it needs, or gave, is damaged.
    Damaged {
        /// Which.
        index: usize,
        /// Who gave what is damaged: they are done again, and then it.
        producers: Vec<usize>,
        /// How it fails if that does not help.
        failure: Failure,
    },
    /// It ended because the user asked to stop.
    Interrupted {
        /// Which.
        index: usize,
    },
    /// The user asked to stop.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Make the key of an instance, and see whether its result is cached.
    Decide(usize),
    /// Begin its work. `again`: because something was damaged.
    Start {
        /// Which.
        index: usize,
        /// Whether it is done again.
        again: bool,
    },
    /// Copy its results for people.
    Deliver(usize),
    /// Forget its result, which is damaged.
    Forget(usize),
    /// Tell that it ended.
    End {
        /// Which.
        index: usize,
        /// How.
        outcome: Outcome,
    },
}

/// How far an instance is.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// So many of its inputs are not known yet.
    Waiting(usize),
    /// Its key is being made.
    Asked,
    /// It can begin as soon as there is a place.
    Ready(Work),
    /// It has a place.
    Busy(Work),
    /// It ended well: others can take from it.
    Done,
    /// It ended otherwise, or is not tried.
    Over,
}

#[derive(Clone, Debug, PartialEq)]
enum Work {
    /// Its result is to be computed, under this key.
    Execute(Digest),
    /// Its results are to be copied; it then ended so.
    Deliver(Outcome),
}

/// The state machine.
pub(super) struct Dispatcher {
    names: Vec<String>,
    states: BTreeMap<usize, State>,
    /// Of the instances that take part.
    dependencies: BTreeMap<usize, Vec<usize>>,
    dependents: BTreeMap<usize, Vec<usize>>,
    /// Those whose inputs are all known, and that wait for a place: in the graph's order.
    ready: BTreeSet<usize>,
    /// Who computes what: another instance with the same key waits, and then finds the result.
    in_work: BTreeMap<Digest, usize>,
    twins: BTreeMap<Digest, BTreeSet<usize>>,
    /// How many are asked about, and how many have a place.
    asked: usize,
    busy: usize,
    places: usize,
    keep_going: bool,
    stopping: bool,
    failed: Option<usize>,
    recoveries: BTreeMap<usize, usize>,
    /// Done again because something of theirs was damaged.
    again: BTreeSet<usize>,
}

impl Dispatcher {
    /// A dispatcher of these instances: names by position in the graph, the positions that take part and what each depends on.
    /// `places`: how many are at work at once.
    pub(super) fn new(
        names: Vec<String>,
        dependencies: BTreeMap<usize, Vec<usize>>,
        places: usize,
        keep_going: bool,
    ) -> Self {
        let mut dependents: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (&index, on) in &dependencies {
            for &other in on {
                dependents.entry(other).or_default().push(index);
            }
        }
        Self {
            names,
            states: dependencies.iter().map(|(&index, on)| (index, State::Waiting(on.len()))).collect(),
            dependencies,
            dependents,
            ready: BTreeSet::new(),
            in_work: BTreeMap::new(),
            twins: BTreeMap::new(),
            asked: 0,
            busy: 0,
            places: places.max(1),
            keep_going,
            stopping: false,
            failed: None,
            recoveries: BTreeMap::new(),
            again: BTreeSet::new(),
        }
    }

    /// What is to be done first.
    pub(super) fn begin(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let free: Vec<usize> = self.waiting().filter(|index| self.states[index] == State::Waiting(0)).collect();
        for index in free {
            self.ask(index, &mut actions);
        }
        actions
    }

    /// Takes notice of what happened; gives what is to be done.
    pub(super) fn handle(&mut self, message: Message) -> Vec<Action> {
        let mut actions = Vec::new();
        match message {
            Message::Decided { index, key, cached, deliver } => self.decided(index, key, cached, deliver, &mut actions),
            Message::Finished { index, outcome, deliver } => {
                self.leave(index, &mut actions);
                if deliver {
                    self.wait_for_a_place(index, Work::Deliver(outcome));
                } else {
                    self.done(index, outcome, &mut actions);
                }
            }
            Message::Delivered { index } => {
                if let Some(State::Busy(Work::Deliver(outcome))) = self.leave(index, &mut actions) {
                    self.done(index, outcome, &mut actions);
                }
            }
            Message::Failed { index, failure } => {
                self.leave(index, &mut actions);
                self.fail(index, failure, &mut actions);
            }
            Message::Damaged { index, producers, failure } => {
                self.leave(index, &mut actions);
                self.recover(index, &producers, failure, &mut actions);
            }
            Message::Interrupted { index } => {
                self.leave(index, &mut actions);
                self.end(index, Outcome::Interrupted, &mut actions);
            }
            Message::Stop => self.stopping = true,
        }
        self.fill_places(&mut actions);
        actions
    }

    /// Whether nothing is at work and nothing will be.
    pub(super) fn is_over(&self) -> bool {
        self.busy == 0 && (self.stopping || (self.ready.is_empty() && self.asked == 0))
    }

    /// What was never begun, and why: only at the end.
    pub(super) fn left_over(&self) -> Vec<(usize, Option<String>)> {
        let at = self.failed.map(|failed| self.names[failed].clone());
        self.waiting().map(|index| (index, at.clone())).collect()
    }

    /// Those that have not ended.
    fn waiting(&self) -> impl Iterator<Item = usize> {
        self.states.iter().filter(|(_, state)| !matches!(state, State::Done | State::Over)).map(|(&index, _)| index)
    }

    fn set(&mut self, index: usize, state: State) {
        self.asked += usize::from(state == State::Asked);
        if self.states.insert(index, state) == Some(State::Asked) {
            self.asked -= 1;
        }
    }

    fn ask(&mut self, index: usize, actions: &mut Vec<Action>) {
        self.set(index, State::Asked);
        actions.push(Action::Decide(index));
    }

    fn decided(&mut self, index: usize, key: Digest, cached: bool, deliver: bool, actions: &mut Vec<Action>) {
        // Something that it takes from was lost in between.
        if self.states.get(&index) != Some(&State::Asked) {
            return;
        }
        match (cached, deliver) {
            (true, false) => self.done(index, Outcome::Hit, actions),
            (true, true) => self.wait_for_a_place(index, Work::Deliver(Outcome::Hit)),
            (false, _) => self.wait_for_a_place(index, Work::Execute(key)),
        }
    }

    fn wait_for_a_place(&mut self, index: usize, work: Work) {
        self.set(index, State::Ready(work));
        self.ready.insert(index);
    }

    fn fill_places(&mut self, actions: &mut Vec<Action>) {
        // What was computed is delivered in any case.
        let computed = |state: &State| matches!(state, State::Ready(Work::Deliver(Outcome::Executed { .. })));
        let next = |it: &Self| {
            it.ready.iter().copied().find(|index| !it.stopping || computed(&it.states[index]))
        };
        while self.busy < self.places
            && let Some(index) = next(self)
        {
            self.ready.remove(&index);
            let Some(State::Ready(work)) = self.states.get(&index).cloned() else { continue };
            if let Work::Execute(key) = &work {
                if self.in_work.contains_key(key) {
                    // What the other one gives will be this one's; it asks again then.
                    self.twins.entry(*key).or_default().insert(index);
                    continue;
                }
                self.in_work.insert(*key, index);
            }
            actions.push(match &work {
                Work::Execute(_) => Action::Start { index, again: self.again.contains(&index) },
                Work::Deliver(_) => Action::Deliver(index),
            });
            self.busy += 1;
            self.set(index, State::Busy(work));
        }
    }

    /// An instance gives its place up; those with the same key ask again. Gives the state that it had, if it had a place.
    fn leave(&mut self, index: usize, actions: &mut Vec<Action>) -> Option<State> {
        let state = self.states.get(&index).filter(|state| matches!(state, State::Busy(_))).cloned()?;
        self.busy -= 1;
        if let State::Busy(Work::Execute(key)) = &state {
            self.in_work.remove(key);
            for twin in self.twins.remove(key).unwrap_or_default() {
                if matches!(self.states.get(&twin), Some(State::Ready(_))) {
                    self.ask(twin, actions);
                }
            }
        }
        Some(state)
    }

    fn done(&mut self, index: usize, outcome: Outcome, actions: &mut Vec<Action>) {
        self.set(index, State::Done);
        self.again.remove(&index);
        actions.push(Action::End { index, outcome });
        for other in self.dependents.get(&index).cloned().unwrap_or_default() {
            if let Some(State::Waiting(missing)) = self.states.get_mut(&other) {
                *missing -= 1;
                if *missing == 0 {
                    self.ask(other, actions);
                }
            }
        }
    }

    fn end(&mut self, index: usize, outcome: Outcome, actions: &mut Vec<Action>) {
        self.ready.remove(&index);
        self.set(index, State::Over);
        actions.push(Action::End { index, outcome });
    }

    /// An instance failed: what depends on it is not tried.
    fn fail(&mut self, index: usize, failure: Failure, actions: &mut Vec<Action>) {
        self.failed.get_or_insert(index);
        self.stopping |= !self.keep_going;
        self.end(index, failure.outcome(), actions);
        self.skip_dependents(index, &self.names[index].clone(), actions);
    }

    /// What depends on an instance, and has not begun, is not tried.
    fn skip_dependents(&mut self, index: usize, because: &str, actions: &mut Vec<Action>) {
        let mut lost = BTreeSet::new();
        let mut open = vec![index];
        while let Some(at) = open.pop() {
            let others = self.dependents.get(&at).into_iter().flatten().copied();
            open.extend(others.filter(|other| lost.insert(*other)));
        }
        for other in lost {
            if matches!(self.states[&other], State::Waiting(_) | State::Asked | State::Ready(_)) {
                self.end(other, Outcome::Skipped { because: because.to_owned() }, actions);
            }
        }
    }

    /// Whoever gave what is damaged is done again, and then the instance.
    fn recover(&mut self, index: usize, producers: &[usize], failure: Failure, actions: &mut Vec<Action>) {
        let tries = self.recoveries.entry(index).or_default();
        *tries += 1;
        if *tries > RECOVERIES {
            self.fail(index, failure, actions);
            return;
        }
        for &lost in producers.iter().filter(|&&producer| producer != index) {
            self.lose(lost, actions);
        }
        self.lose(index, actions);
    }

    /// An instance is to be done again; what has not begun and takes from it waits for it.
    fn lose(&mut self, index: usize, actions: &mut Vec<Action>) {
        let was_done = self.states.get(&index) == Some(&State::Done);
        if matches!(self.states.get(&index), Some(State::Over) | None) {
            return;
        }
        self.ready.remove(&index);
        self.again.insert(index);
        actions.push(Action::Forget(index));
        if was_done {
            for other in self.dependents.get(&index).cloned().unwrap_or_default() {
                match self.states.get(&other) {
                    Some(&State::Waiting(missing)) => self.set(other, State::Waiting(missing + 1)),
                    Some(State::Asked | State::Ready(Work::Execute(_))) => {
                        self.ready.remove(&other);
                        self.set(other, State::Waiting(1));
                    }
                    _ => {}
                }
            }
        }
        let on = &self.dependencies[&index];
        if let Some(&failed) = on.iter().find(|on| self.states.get(on) == Some(&State::Over)) {
            // It cannot be done again: something that it takes from failed in between.
            let because = self.names[failed].clone();
            self.end(index, Outcome::Skipped { because: because.clone() }, actions);
            self.skip_dependents(index, &because, actions);
            return;
        }
        let missing = on.iter().filter(|on| self.states.get(on) != Some(&State::Done)).count();
        self.set(index, State::Waiting(missing));
        if missing == 0 {
            self.ask(index, actions);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(message: &str) -> Failure {
        Failure { message: message.to_owned(), help: None, code: super::super::ExitCode::StageFailed }
    }

    fn key(index: usize) -> Digest {
        Digest::of(&index.to_le_bytes())
    }

    fn dispatcher(dependencies: &[&[usize]], places: usize, keep_going: bool) -> Dispatcher {
        let names = (0..dependencies.len()).map(|index| format!("i{index}")).collect();
        let dependencies = dependencies.iter().enumerate().map(|(index, on)| (index, on.to_vec())).collect();
        Dispatcher::new(names, dependencies, places, keep_going)
    }

    fn run(index: usize) -> Message {
        Message::Decided { index, key: key(index), cached: false, deliver: false }
    }

    fn hit(index: usize) -> Message {
        Message::Decided { index, key: key(index), cached: true, deliver: false }
    }

    fn finished(index: usize) -> Message {
        Message::Finished { index, outcome: Outcome::Executed { seconds: 1.0 }, deliver: false }
    }

    fn start(index: usize) -> Action {
        Action::Start { index, again: false }
    }

    fn end(index: usize) -> Action {
        Action::End { index, outcome: Outcome::Executed { seconds: 1.0 } }
    }

    #[test]
    fn an_instance_begins_when_its_inputs_are_known_and_there_is_a_place() {
        let mut it = dispatcher(&[&[], &[], &[0, 1]], 1, false);
        assert_eq!(it.begin(), [Action::Decide(0), Action::Decide(1)]);
        assert_eq!(it.handle(run(0)), [start(0)]);
        assert_eq!(it.handle(run(1)), []);
        assert_eq!(it.handle(finished(0)), [end(0), start(1)]);
        assert_eq!(it.handle(finished(1)), [end(1), Action::Decide(2)]);
        assert!(!it.is_over());
        assert_eq!(it.handle(hit(2)), [Action::End { index: 2, outcome: Outcome::Hit }]);
        assert!(it.is_over() && it.left_over().is_empty());
    }

    #[test]
    fn results_for_people_take_a_place_too() {
        let mut it = dispatcher(&[&[], &[]], 1, false);
        it.begin();
        assert_eq!(
            it.handle(Message::Decided { index: 0, key: key(0), cached: true, deliver: true }),
            [Action::Deliver(0)]
        );
        assert_eq!(it.handle(run(1)), []);
        assert_eq!(it.handle(Message::Delivered { index: 0 }), [Action::End { index: 0, outcome: Outcome::Hit }, start(1)]);
        let ended = Message::Finished { index: 1, outcome: Outcome::Executed { seconds: 1.0 }, deliver: true };
        assert_eq!(it.handle(ended), [Action::Deliver(1)]);
        assert_eq!(it.handle(Message::Delivered { index: 1 }), [end(1)]);
        assert!(it.is_over());
    }

    #[test]
    fn the_same_work_is_done_once() {
        let mut it = dispatcher(&[&[], &[], &[]], 3, false);
        it.begin();
        assert_eq!(it.handle(run(0)), [start(0)]);
        let twin = Message::Decided { index: 1, key: key(0), cached: false, deliver: false };
        assert_eq!(it.handle(twin), []);
        assert!(!it.is_over());
        assert_eq!(it.handle(finished(0)), [Action::Decide(1), end(0)]);
        assert_eq!(it.handle(hit(1)), [Action::End { index: 1, outcome: Outcome::Hit }]);
    }

    #[test]
    fn only_what_depends_on_a_failure_is_not_tried() {
        let dependencies: [&[usize]; 5] = [&[], &[0], &[1], &[], &[3]];
        let skipped = |index| Action::End { index, outcome: Outcome::Skipped { because: "i0".to_owned() } };
        let mut it = dispatcher(&dependencies, 1, true);
        it.begin();
        it.handle(run(0));
        it.handle(run(3));
        let failed = it.handle(Message::Failed { index: 0, failure: failure("no") });
        assert_eq!(failed[0], Action::End { index: 0, outcome: failure("no").outcome() });
        assert_eq!(failed[1..], [skipped(1), skipped(2), start(3)]);
        assert_eq!(it.handle(finished(3)), [end(3), Action::Decide(4)]);

        // Without going on, the others are left over: the run stopped before their turn.
        let mut it = dispatcher(&dependencies, 1, false);
        it.begin();
        it.handle(run(0));
        it.handle(run(3));
        assert_eq!(it.handle(Message::Failed { index: 0, failure: failure("no") })[1..], [skipped(1), skipped(2)]);
        assert!(it.is_over());
        assert_eq!(it.left_over(), [(3, Some("i0".to_owned())), (4, Some("i0".to_owned()))]);
    }

    #[test]
    fn what_is_damaged_is_made_again_and_not_for_ever() {
        let mut it = dispatcher(&[&[], &[0], &[0]], 2, true);
        it.begin();
        it.handle(hit(0));
        it.handle(run(1));
        let damaged = || Message::Damaged { index: 1, producers: vec![0], failure: failure("damaged") };
        // 2 was asked for; it waits for 0 again, and what is said of it now is of yesterday.
        assert_eq!(it.handle(damaged()), [Action::Forget(0), Action::Decide(0), Action::Forget(1)]);
        assert_eq!(it.handle(run(2)), []);
        assert_eq!(it.handle(run(0)), [Action::Start { index: 0, again: true }]);
        let again = it.handle(finished(0));
        assert_eq!(again, [end(0), Action::Decide(1), Action::Decide(2)]);
        assert_eq!(it.handle(run(1)), [Action::Start { index: 1, again: true }]);
        for _ in 1..RECOVERIES {
            it.handle(damaged());
            it.handle(run(0));
            it.handle(finished(0));
            it.handle(run(1));
        }
        let last = it.handle(damaged());
        assert!(last.contains(&Action::End { index: 1, outcome: failure("damaged").outcome() }), "{last:?}");
    }

    #[test]
    fn who_stops_begins_nothing_more() {
        let mut it = dispatcher(&[&[], &[], &[0]], 1, false);
        it.begin();
        it.handle(run(0));
        it.handle(run(1));
        assert_eq!(it.handle(Message::Stop), []);
        assert!(!it.is_over(), "one is at work");
        assert_eq!(
            it.handle(Message::Interrupted { index: 0 }),
            [Action::End { index: 0, outcome: Outcome::Interrupted }]
        );
        assert!(it.is_over());
        assert_eq!(it.left_over(), [(1, None), (2, None)]);
    }

    proptest! {
        /// Whatever happens in whatever order: every instance ends once, never more are at work than there are places, and nothing
        /// begins before what it takes from is done.
        #[test]
        fn every_instance_ends_and_places_are_kept(
            edges in prop::collection::vec(prop::collection::vec(0usize..12, 0..4), 1..12),
            places in 1usize..4,
            keep_going: bool,
            fates in prop::collection::vec(0u8..12, 200),
        ) {
            let dependencies: Vec<Vec<usize>> = edges
                .iter()
                .enumerate()
                .map(|(index, on)| on.iter().copied().filter(|&o| o < index).collect::<BTreeSet<_>>().into_iter().collect())
                .collect();
            let slices: Vec<&[usize]> = dependencies.iter().map(Vec::as_slice).collect();
            let mut it = dispatcher(&slices, places, keep_going);
            let mut fates = fates.into_iter().cycle();
            let mut open = it.begin();
            let (mut done, mut ended, mut at_work) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
            let mut pending: Vec<Message> = Vec::new();
            let mut steps = 0;
            loop {
                steps += 1;
                prop_assert!(steps < 5000, "it does not come to an end");
                for action in std::mem::take(&mut open) {
                    match action {
                        Action::Decide(index) => {
                            prop_assert!(dependencies[index].iter().all(|on| done.contains(on)));
                            let fate = fates.next().unwrap();
                            pending.push(Message::Decided {
                                index,
                                key: key(if fate == 11 { 0 } else { index }),
                                cached: fate < 3,
                                deliver: fate % 2 == 0,
                            });
                        }
                        Action::Start { index, .. } | Action::Deliver(index) => {
                            prop_assert!(at_work.insert(index));
                            prop_assert!(at_work.len() <= places);
                            let delivers = matches!(action, Action::Deliver(_));
                            pending.push(match fates.next().unwrap() {
                                0 => Message::Failed { index, failure: failure("f") },
                                1 => Message::Damaged {
                                    index,
                                    producers: dependencies[index].clone(),
                                    failure: failure("d"),
                                },
                                _ if delivers => Message::Delivered { index },
                                fate => Message::Finished { index, outcome: Outcome::Executed { seconds: 1.0 }, deliver: fate == 2 },
                            });
                        }
                        Action::Forget(index) => {
                            done.remove(&index);
                            ended.remove(&index);
                        }
                        Action::End { index, outcome } => {
                            if matches!(outcome, Outcome::Hit | Outcome::Executed { .. }) {
                                done.insert(index);
                            }
                            prop_assert!(ended.insert(index, outcome).is_none(), "{index} ended twice");
                        }
                    }
                }
                if pending.is_empty() {
                    break;
                }
                let at = usize::from(fates.next().unwrap()) % pending.len();
                let message = pending.remove(at);
                if let Message::Finished { index, .. } | Message::Delivered { index } | Message::Failed { index, .. } | Message::Damaged { index, .. } = &message {
                    at_work.remove(index);
                }
                open = it.handle(message);
            }
            prop_assert!(it.is_over());
            let left: BTreeSet<usize> = it.left_over().into_iter().map(|(index, _)| index).collect();
            for index in 0..dependencies.len() {
                prop_assert!(ended.contains_key(&index) != left.contains(&index), "{index}: ended and left over, or neither");
            }
            if keep_going {
                prop_assert!(left.is_empty(), "with going on, nothing is left over: {left:?}");
            }
        }
    }
}
