//! Profiles at work: every stored version compiled, and which version is current by name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use postrider_core::delivery::ProfileVersion;
use postrider_core::profile::{Profile, built_in};
use postrider_store::{Store, StoreError};

/// All versions that deliveries may be pinned to, and the current one of each name.
#[derive(Debug, Default)]
pub struct ProfileRegistry {
    versions: RwLock<HashMap<ProfileVersion, Arc<Profile>>>,
    current: RwLock<HashMap<String, CurrentProfile>>,
}

#[derive(Debug, Clone)]
pub struct CurrentProfile {
    pub version: ProfileVersion,
    pub profile: Arc<Profile>,
}

/// Why profiles cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("failed to read or write profiles")]
    Store(#[from] StoreError),
}

impl ProfileRegistry {
    /// Compiles what the store has, and makes the built-in profiles and `own` current. An own
    /// profile may replace a built-in one of its name.
    ///
    /// # Errors
    /// When the store fails. A version that this binary cannot read is told in the log and left out.
    pub async fn load(store: &dyn Store, own: Vec<Profile>) -> Result<Self, ProfileError> {
        let registry = Self::default();
        for record in store.profiles().await? {
            let profile = match Profile::parse(&record.source) {
                Ok(profile) => profile,
                Err(mistakes) => {
                    tracing::error!(name = %record.name, version = record.version, ?mistakes, "a stored profile has mistakes for this version of the server; its deliveries wait");
                    continue;
                }
            };
            registry
                .versions
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(record.version, Arc::new(profile));
        }
        registry
            // In this order: of two with one name the later is current.
            .replace(store, built_in().iter().cloned().chain(own))
            .await?;
        Ok(registry)
    }

    /// Makes profiles current, each in the place of the one that has its name. Deliveries that were made
    /// under another version keep that.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn replace(
        &self,
        store: &dyn Store,
        profiles: impl IntoIterator<Item = Profile>,
    ) -> Result<(), ProfileError> {
        let registry = self;
        for profile in profiles {
            let version = store.put_profile(&profile.name, &profile.source).await?;
            let profile = Arc::new(profile);
            registry
                .versions
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                // Before it is current: whoever is given the version has to find it.
                .insert(version, profile.clone());
            let name = profile.name.clone();
            registry
                .current
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name, CurrentProfile { version, profile });
        }
        Ok(())
    }

    /// The version that new deliveries of this profile get.
    pub fn current(&self, name: &str) -> Option<CurrentProfile> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// The plan a delivery was made under.
    pub fn version(&self, version: ProfileVersion) -> Option<Arc<Profile>> {
        self.versions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&version)
            .cloned()
    }

    /// Names of the current profiles, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect();
        names.sort();
        names
    }
}
