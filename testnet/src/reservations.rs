//! Reservations from `/v1/resources`, as accounts for the checker of G8.

use std::collections::BTreeMap;

use quorate_api::ResourcesInfo;
use quorate_protocols::resources::{Amounts, Resource};

use crate::checkers::g8_reservations::Account;

/// Every resource of every scope that has a limit: none may be over it at any moment.
pub fn limited(resources: &ResourcesInfo) -> Vec<Account<String>> {
    let rows = resources.scopes.iter().flat_map(|row| {
        let (used, limit) = (Amounts::from(row.used), Amounts::from(row.limit));
        Resource::ALL.into_iter().map(move |resource| Account {
            scope: format!("{resource} of {}", row.scope),
            used: used.get(resource),
            limit: limit.get(resource),
        })
    });
    rows.filter(|account| account.limit != u64::MAX).collect()
}

/// What each lender's scope has reserved, and what the leases in it set aside: equal, except in the moment of a change.
pub fn leased(resources: &ResourcesInfo) -> (Vec<Account<String>>, Vec<u64>) {
    let promised: BTreeMap<&str, Amounts> =
        resources.leases.iter().map(|row| (row.scope.as_str(), row.reserved.into())).collect();
    let lenders = resources.scopes.iter().filter(|row| row.scope.starts_with("leases of peer "));
    lenders
        .flat_map(|row| {
            let promised = promised.get(row.scope.as_str()).copied().unwrap_or_default();
            let used = Amounts::from(row.used);
            Resource::ALL.into_iter().map(move |resource| {
                let scope = format!("{resource} of {}", row.scope);
                let account = Account { scope, used: used.get(resource), limit: u64::MAX };
                (account, promised.get(resource))
            })
        })
        .unzip()
}

/// Memory of requests and transfers: given back when they end, so none is left at rest.
pub fn passing(resources: &ResourcesInfo) -> Vec<Account<String>> {
    let sorts = ["protocol ", "peer ", "service Objects", "span "];
    let rows = resources.scopes.iter().filter(|row| sorts.iter().any(|sort| row.scope.starts_with(sort)));
    rows.map(|row| Account {
        scope: format!("memory of {}", row.scope),
        used: row.used.memory_bytes,
        limit: row.limit.memory_bytes,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use quorate_api::{LeasesInfo, ScopeInfo};

    use super::*;
    use crate::checkers::g8_reservations::{check, check_at_rest};

    #[test]
    fn leases_and_reservations_must_agree_and_limits_hold() {
        let disk = |bytes| Amounts::disk(bytes).into();
        let scope = |scope: &str, used| ScopeInfo { scope: scope.into(), used, limit: disk(10) };
        let lease = |bytes| LeasesInfo { scope: "leases of peer x".into(), leases: 1, reserved: disk(bytes) };
        let info = |used: u64, promised: u64| ResourcesInfo {
            scopes: vec![scope("the node", disk(used)), scope("leases of peer x", disk(used))],
            leases: vec![lease(promised)],
            disk_free_bytes: None,
            disk_bytes: None,
        };
        assert_eq!(check(&limited(&info(10, 10))), []);
        assert_eq!(check(&limited(&info(11, 11))).len(), 2);
        let at_rest = |info: &ResourcesInfo| {
            let (accounts, stays) = leased(info);
            check_at_rest(&accounts, &stays).len()
        };
        assert_eq!(at_rest(&info(3, 3)), 0);
        assert_eq!(at_rest(&info(3, 2)), 1);
        let none = ResourcesInfo { leases: Vec::new(), ..info(3, 3) };
        assert_eq!(at_rest(&none), 1, "reserved for nobody");
        let busy = ResourcesInfo { scopes: vec![scope("protocol piece", Amounts::memory(1).into())], ..info(0, 0) };
        assert_eq!(check_at_rest(&passing(&busy), &[0]).len(), 1);
    }
}
