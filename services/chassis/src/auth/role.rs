//! The roles of people.

/// A role in the `roles` claim of a token, which methods name in their `role_names`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads everything of its facility.
    Viewer,
    /// Places, fulfils and cancels orders.
    Clerk,
    /// Takes payments and refunds them.
    Cashier,
    /// Submits claims and imports remittances.
    Biller,
    /// Manages dead letters, sagas and the mesh.
    Operator,
    /// All of the above.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 6] = [
        Role::Viewer,
        Role::Clerk,
        Role::Cashier,
        Role::Biller,
        Role::Operator,
        Role::Admin,
    ];

    /// The role's name in tokens and in contracts: `cashier`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Clerk => "clerk",
            Role::Cashier => "cashier",
            Role::Biller => "biller",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// The role with this name.
    pub fn find(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleSet(u8);

impl RoleSet {
    /// The roles with these names (`clerk`). Unknown names are ignored: a token may also be meant for other
    /// systems.
    pub fn from_names<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> RoleSet {
        let known = names.into_iter().filter_map(|name| Role::find(name.as_ref()));
        known.collect()
    }

    /// Whether `role` is in the set; `admin` includes all roles.
    pub fn has(self, role: Role) -> bool {
        let bits = bit(role) | bit(Role::Admin);
        self.0 & bits != 0
    }

    /// The names of the roles that its members have.
    pub(crate) fn granted(self) -> impl Iterator<Item = &'static str> {
        let granted = Role::ALL.into_iter().filter(move |role| self.has(*role));
        granted.map(Role::name)
    }
}

impl FromIterator<Role> for RoleSet {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> RoleSet {
        RoleSet(roles.into_iter().fold(0, |bits, role| bits | bit(role)))
    }
}

fn bit(role: Role) -> u8 {
    1 << role as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_has_every_role_and_others_have_only_their_own() {
        let admin = RoleSet::from_names(["admin"]);
        assert!(Role::ALL.into_iter().all(|role| admin.has(role)));
        let clerk = RoleSet::from_names(["clerk", "unknown"]);
        assert!(clerk.has(Role::Clerk) && !clerk.has(Role::Cashier));
        assert!(!Role::ALL.into_iter().any(|role| RoleSet::default().has(role)));
    }
}
