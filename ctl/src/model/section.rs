//! The parts of a configuration, for errors and for code that treats all lists alike.

use super::Config;

/// The object of a [`Config`] that an error is about: its list and its index there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    /// The file as a whole, or its top-level keys.
    Top,
    /// `[uplink]`.
    Uplink,
    /// `[workers]`.
    Workers,
    /// An entry of the list of this kind.
    Entry(Section, usize),
}

/// The lists of a [`Config`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Section {
    /// `[[network]]`.
    Network,
    /// `[[port]]`.
    Port,
    /// `[[peer]]`.
    Peer,
    /// `[[floating]]`.
    Floating,
    /// `[[route]]`.
    Route,
    /// `[[fdb]]`.
    Fdb,
}

impl Section {
    /// Every list, in the order of the file.
    pub(crate) const ALL: [Self; 6] =
        [Self::Network, Self::Port, Self::Peer, Self::Floating, Self::Route, Self::Fdb];

    /// The number of entries that a configuration has in this list.
    pub(crate) fn len(self, config: &Config) -> usize {
        match self {
            Self::Network => config.network.len(),
            Self::Port => config.port.len(),
            Self::Peer => config.peer.len(),
            Self::Floating => config.floating.len(),
            Self::Route => config.route.len(),
            Self::Fdb => config.fdb.len(),
        }
    }

    /// The list's key in the file.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Port => "port",
            Self::Peer => "peer",
            Self::Floating => "floating",
            Self::Route => "route",
            Self::Fdb => "fdb",
        }
    }
}
