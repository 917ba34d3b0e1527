//! G7: nothing panics, and nothing that others fill passes its bound.

use std::fmt::Display;

use super::{Guarantee, Violation};

/// A queue, map or memory that others can fill, and its named bound.
#[derive(Clone, Debug)]
pub struct Gauge<T> {
    pub name: T,
    pub value: u64,
    pub limit: u64,
}

pub fn check<T: Display>(gauges: &[Gauge<T>], panics: &[String]) -> Vec<Violation> {
    let mut found: Vec<_> =
        panics.iter().map(|panic| Violation::new(Guarantee::G7, format!("a task panicked: {panic}"))).collect();
    let over = gauges.iter().filter(|gauge| gauge.value > gauge.limit);
    found.extend(over.map(|gauge| {
        let Gauge { name, value, limit } = gauge;
        Violation::new(Guarantee::G7, format!("{name} holds {value}, its bound is {limit}"))
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_may_be_reached_but_not_passed() {
        let gauge = |value| Gauge { name: "queue", value, limit: 4 };
        assert_eq!(check(&[gauge(0), gauge(4)], &[]), []);
        assert_eq!(check(&[gauge(5)], &[]).len(), 1);
        assert_eq!(check(&[gauge(1)], &["index out of bounds".into()]).len(), 1);
    }
}
