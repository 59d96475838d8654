//! Overlap of patterns of names: two jobs on one folder must not take the same file.
//!
//! Invariants: the patterns are those of `input.pattern`, held against file names, which have no
//! slash. The answer is exact, by the subset construction over all patterns at once (Rabin and Scott,
//! 1959), unless it would take more than `STEPS_MAX` steps: then there is something in common.

use std::collections::{BTreeSet, HashSet, VecDeque};

/// States that are looked at before giving up.
const STEPS_MAX: usize = 20_000;

/// Finds a name that matches all of the patterns `all` and none of `none`; `None` when there is none.
/// A pattern that cannot be read matches everything.
pub fn common(all: &[&str], none: &[&str]) -> Option<String> {
    let machines: Vec<Machine> = all.iter().chain(none).map(|text| Machine::of(text)).collect();
    let alphabet = alphabet(&machines);
    let start: Vec<States> = machines.iter().map(|machine| machine.closure([0].into())).collect();
    let mut seen = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([(start, String::new())]);
    while let Some((states, name)) = queue.pop_front() {
        let accepts = |(machine, states): (&Machine, &States)| states.contains(&machine.end());
        let (wanted, refused) = machines.split_at(all.len());
        let (here, there) = states.split_at(all.len());
        if !name.is_empty()
            && wanted.iter().zip(here).all(accepts)
            && !refused.iter().zip(there).any(accepts)
        {
            return Some(name);
        }
        if seen.len() > STEPS_MAX {
            return Some(name);
        }
        for character in &alphabet {
            let step = |(machine, states): (&Machine, &States)| machine.step(states, *character);
            let next: Vec<States> = machines.iter().zip(&states).map(step).collect();
            let is_dead = next.iter().take(all.len()).any(BTreeSet::is_empty);
            if !is_dead && seen.insert(next.clone()) {
                queue.push_back((next, format!("{name}{character}")));
            }
        }
    }
    None
}

type States = BTreeSet<usize>;

/// A pattern as a nondeterministic automaton; it begins in state 0 and accepts in the last one.
struct Machine {
    states: Vec<State>,
}

#[derive(Default, Clone)]
struct State {
    /// States that are reached without a character.
    free: Vec<usize>,
    /// A state that is reached by such a character.
    by: Option<(Class, usize)>,
}

/// Characters that match; or with `except`, all others but the slash.
#[derive(Debug, Clone, Default)]
struct Class {
    ranges: Vec<(char, char)>,
    except: bool,
}

impl Class {
    fn one(character: char) -> Self {
        Self { ranges: vec![(character, character)], except: false }
    }

    fn any() -> Self {
        Self { ranges: Vec::new(), except: true }
    }

    fn holds(&self, character: char) -> bool {
        let listed = self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&character));
        character != '/' && listed != self.except
    }
}

impl Machine {
    fn of(text: &str) -> Self {
        let mut machine = Self { states: vec![State::default()] };
        let mut reader = Reader { text: text.chars().collect(), at: 0 };
        let end = match reader.sequence(&mut machine, 0, false) {
            Some(end) if reader.at == reader.text.len() => end,
            _ => {
                machine.states = vec![State::default()];
                machine.star(0)
            }
        };
        let last = machine.add();
        machine.link(end, last);
        machine
    }

    fn add(&mut self) -> usize {
        self.states.push(State::default());
        self.states.len() - 1
    }

    fn end(&self) -> usize {
        self.states.len() - 1
    }

    fn link(&mut self, from: usize, to: usize) {
        if let Some(state) = self.states.get_mut(from) {
            state.free.push(to);
        }
    }

    /// One character of this class after `from`.
    fn class(&mut self, from: usize, class: Class) -> usize {
        let begin = self.add();
        let end = self.add();
        self.link(from, begin);
        if let Some(state) = self.states.get_mut(begin) {
            state.by = Some((class, end));
        }
        end
    }

    /// Any number of characters after `from`.
    fn star(&mut self, from: usize) -> usize {
        let loops = self.add();
        self.link(from, loops);
        let end = self.class(loops, Class::any());
        self.link(end, loops);
        loops
    }

    fn closure(&self, mut states: States) -> States {
        let mut open: Vec<usize> = states.iter().copied().collect();
        while let Some(state) = open.pop() {
            let free = self.states.get(state).map(|state| state.free.as_slice());
            for next in free.unwrap_or_default() {
                if states.insert(*next) {
                    open.push(*next);
                }
            }
        }
        states
    }

    fn step(&self, states: &States, character: char) -> States {
        let by = states.iter().filter_map(|state| self.states.get(*state)?.by.as_ref());
        let next = by.filter(|(class, _)| class.holds(character)).map(|(_, next)| *next);
        self.closure(next.collect())
    }
}

/// Reads a pattern.
struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    /// Reads to the end, or in braces to a comma or the closing brace; `None` when it is no pattern.
    fn sequence(&mut self, machine: &mut Machine, mut at: usize, in_braces: bool) -> Option<usize> {
        while let Some(character) = self.peek() {
            if in_braces && matches!(character, ',' | '}') {
                break;
            }
            self.at += 1;
            at = match character {
                '?' => machine.class(at, Class::any()),
                '*' => self.stars(machine, at),
                '[' => {
                    let class = self.class()?;
                    machine.class(at, class)
                }
                '{' => self.braces(machine, at)?,
                '\\' => {
                    let literal = self.next()?;
                    machine.class(at, Class::one(literal))
                }
                literal => machine.class(at, Class::one(literal)),
            };
        }
        Some(at)
    }

    fn stars(&mut self, machine: &mut Machine, at: usize) -> usize {
        let is_double = self.peek() == Some('*');
        while self.peek() == Some('*') {
            self.at += 1;
        }
        if is_double && self.peek() == Some('/') {
            // Any number of folders, none in a file name.
            self.at += 1;
            return at;
        }
        machine.star(at)
    }

    fn class(&mut self) -> Option<Class> {
        let except = matches!(self.peek(), Some('!' | '^'));
        self.at += usize::from(except);
        let mut ranges = Vec::new();
        loop {
            let from = self.next()?;
            if from == ']' && !ranges.is_empty() {
                return Some(Class { ranges, except });
            }
            let is_range =
                self.peek() == Some('-') && self.text.get(self.at + 1).is_some_and(|to| *to != ']');
            if is_range {
                self.at += 1;
                ranges.push((from, self.next()?));
            } else {
                ranges.push((from, from));
            }
        }
    }

    fn braces(&mut self, machine: &mut Machine, at: usize) -> Option<usize> {
        let end = machine.add();
        loop {
            let begin = machine.add();
            machine.link(at, begin);
            let last = self.sequence(machine, begin, true)?;
            machine.link(last, end);
            if self.next()? == '}' {
                return Some(end);
            }
        }
    }
}

/// A character of each kind that the patterns tell apart.
fn alphabet(machines: &[Machine]) -> Vec<char> {
    let states = machines.iter().flat_map(|machine| &machine.states);
    let classes = states.filter_map(|state| Some(&state.by.as_ref()?.0));
    let mut known: BTreeSet<char> = classes
        .flat_map(|class| &class.ranges)
        .flat_map(|(from, to)| [Some(*from), Some(*to), after(*to), before(*from)])
        .flatten()
        .collect();
    // One that no pattern names, unless they name all of these.
    known.extend(('a'..='z').chain('0'..='9').find(|other| !known.contains(other)));
    known.into_iter().filter(|character| !matches!(character, '/' | '\0')).collect()
}

fn after(character: char) -> Option<char> {
    char::from_u32(u32::from(character) + 1)
}

fn before(character: char) -> Option<char> {
    u32::from(character).checked_sub(1).and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_have_names_in_common_or_not() {
        for (one, other) in [
            ("*", "a.csv"),
            ("*.csv", "orders*"),
            ("a?c", "[ab]b*"),
            ("{a,b}*.{csv,txt}", "b1.txt"),
            ("[!a]*", "b"),
            ("**", "x"),
            ("**/x", "x"),
        ] {
            assert!(common(&[one, other], &[]).is_some(), "{one} {other}");
        }
        for (one, other) in [
            ("*.csv", "*.txt"),
            ("a*", "b*"),
            ("orders_*.csv", "*.csv.gz"),
            ("[ab]*", "[c-e]*"),
            ("sub/*", "*"),
            ("???", "??"),
            ("{a,b}.csv", "c*"),
        ] {
            assert_eq!(common(&[one, other], &[]), None, "{one} {other}");
        }
    }

    #[test]
    fn what_one_excludes_the_other_may_have() {
        assert_eq!(common(&["*", "*.csv"], &["*.csv"]), None);
        assert!(common(&["*", "*.csv"], &["a*.csv"]).is_some());
        assert_eq!(common(&["*.tmp"], &["*.[tT][mM][pP]"]), None);
    }

    proptest! {
        /// A name that is found matches, by the library that the folder's own rules use.
        #[test]
        fn what_is_found_matches(
            one in "[ab*?.]{1,5}", other in "[ab*?.]{1,5}", not in "[ab*?.]{1,4}",
        ) {
            let matches = |pattern: &str, name: &str| {
                let glob = GlobBuilder::new(pattern).literal_separator(true).build().unwrap();
                glob.compile_matcher().is_match(name)
            };
            if let Some(name) = common(&[&one, &other], &[&not]) {
                prop_assert!(matches(&one, &name) && matches(&other, &name), "{}", name);
                prop_assert!(!matches(&not, &name), "{}", name);
                return Ok(());
            }
            // Every short name over these letters is tried.
            let letters = ["a", "b", "."];
            let mut names = vec![String::new()];
            for _ in 0..4 {
                let longer = names.iter().flat_map(|name| letters.map(|one| format!("{name}{one}")));
                names = names.iter().cloned().chain(longer).collect();
                names.dedup();
                let both = |name: &&String| {
                    !name.is_empty() && matches(&one, name) && matches(&other, name)
                };
                let hit = names.iter().filter(both).find(|name| !matches(&not, name));
                prop_assert_eq!(hit, None);
                names.truncate(400);
            }
        }
    }
}
