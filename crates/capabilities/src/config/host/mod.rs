//! Configuration interfaces for guests. What they find is the same in every version; each has a file of its own for how it
//! says so.

mod spin2;
mod spin3;
mod wasi;

use model::Entry;
use wasmtime::component::{HasData, Linker};

use super::Secrets;
use crate::calls::{CallSink, told};

/// Access to what a store's app may read.
pub struct ConfigView<'a> {
    /// Whose values it may read, and those of its tenant's secrets that it was granted.
    pub app: &'a Entry,
    pub secrets: &'a Secrets,
    /// Who hears of calls, if anyone.
    pub calls: Option<&'a dyn CallSink>,
}

/// A store's data that has configuration.
pub trait ConfigData: Send + 'static {
    fn config(&mut self) -> ConfigView<'_>;
}

/// What all versions are linked over.
struct Config;

impl HasData for Config {
    type Data<'a> = ConfigView<'a>;
}

/// Lends every version that needs no more than plain calls.
pub fn add_to_linker<T: ConfigData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasi::add_to_linker(linker)?;
    spin2::add_to_linker(linker)
}

/// Lends the version whose calls are asynchronous; the engine must have component-async.
pub fn add_async_to_linker<T: ConfigData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    spin3::add_to_linker(linker)
}

/// Why there is no variable. Both of Spin's interfaces have a case for each.
enum NoVariable {
    /// It could not even be one.
    InvalidName(String),
    /// No grant names it, or the secret that one names is not set.
    Undefined(String),
}

impl ConfigView<'_> {
    /// The value, or the secret, of this name. Only what this app was granted is looked through: a name of anybody else's
    /// is like one that nobody has.
    fn get(&self, name: &str) -> Option<String> {
        let granted = &self.app.grant;
        let mut secrets = granted.secrets.iter();
        match secrets.find(|secret| secret.is_written(name)) {
            Some(secret) => told(self.calls, "secrets.get", || {
                let (tenant, incarnation) = (&self.app.id.tenant, self.app.incarnations.tenant);
                let secret = self.secrets.get(tenant, incarnation, secret)?;
                Some(secret.text.expose().to_owned())
            }),
            None => told(self.calls, "config.get", || {
                granted.config.get(name).cloned()
            }),
        }
    }

    /// Every value. Secrets are not among them: who wants one says which, and who shows all configuration shows none.
    fn get_all(&self) -> Vec<(String, String)> {
        let values = self.app.grant.config.iter();
        let get = || values.map(|(name, value)| (name.clone(), value.clone()));
        told(self.calls, "config.get-all", || get().collect())
    }

    /// The same as [`Self::get`], for interfaces whose names are of Spin's form.
    fn variable(&self, name: String) -> Result<String, NoVariable> {
        if !is_variable(&name) {
            return Err(NoVariable::InvalidName(name));
        }
        self.get(&name).ok_or(NoVariable::Undefined(name))
    }
}

/// Whether Spin's manifests could declare it.
fn is_variable(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(rest)
}

/// Puts [`NoVariable`] into the words of one version.
macro_rules! no_variable {
    ($error:ident) => {
        impl From<crate::config::host::NoVariable> for $error {
            fn from(none: crate::config::host::NoVariable) -> Self {
                match none {
                    crate::config::host::NoVariable::InvalidName(name) => Self::InvalidName(name),
                    crate::config::host::NoVariable::Undefined(name) => Self::Undefined(name),
                }
            }
        }
    };
}
use no_variable;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use model::{
        Digest, Grants, GuestKind, Incarnations, Secret, SecretId, SecretText, TenantName,
        VersionNumber,
    };

    use super::*;
    use crate::calls::Called;

    #[derive(Default)]
    struct Heard(Mutex<Vec<&'static str>>);

    impl CallSink for Heard {
        fn called(&self, called: Called) {
            self.0.lock().unwrap().push(called.name);
        }

        fn child(&self) -> Option<model::trace::TraceParent> {
            None
        }
    }

    /// What is not granted is not looked for among secrets at all: so it takes no longer, whoever has one of that name.
    #[test]
    fn a_name_is_looked_for_among_what_was_granted_alone() {
        let (alice, bob): (TenantName, TenantName) =
            ("alice".parse().unwrap(), "bob".parse().unwrap());
        let secrets = Secrets::default();
        for (tenant, name) in [
            (&alice, "own-key"),
            (&alice, "other-key"),
            (&bob, "bobs-key"),
        ] {
            let id = SecretId {
                tenant: tenant.clone(),
                name: name.parse().unwrap(),
            };
            let text = format!("{name} of {tenant}").into_bytes();
            let text = SecretText::new(text.into()).unwrap();
            secrets.put(Arc::new(Secret {
                id,
                incarnation: 3,
                revision: 1,
                text,
            }));
        }
        let heard = Heard::default();
        let grants = Grants {
            config: [("currency".into(), "EUR".into())].into(),
            secrets: ["own-key", "unset"]
                .map(|name| name.parse().unwrap())
                .into(),
            ..Grants::default()
        };
        let app = |tenant_before| Entry {
            id: "alice/shop".parse().unwrap(),
            incarnations: Incarnations {
                tenant: tenant_before,
                app: 0,
            },
            version: VersionNumber::new(1).unwrap(),
            revision: 1,
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(b""),
            routes: Vec::new(),
            grant: grants.clone().into(),
            limits: Default::default(),
            reply: Default::default(),
            reuse: None,
        };
        let view_of = |app| ConfigView {
            app,
            secrets: &secrets,
            calls: Some(&heard),
        };
        let (app, of_gone_tenant) = (app(3), app(2));
        assert_eq!(view_of(&of_gone_tenant).get("own-key"), None);
        heard.0.lock().unwrap().clear();
        let view = view_of(&app);
        let check = |name: &str, call: &str, expected: Option<&str>| {
            assert_eq!(view.get(name).as_deref(), expected, "{name}");
            assert_eq!(heard.0.lock().unwrap().pop(), Some(call), "{name}");
        };
        check("own-key", "secrets.get", Some("own-key of alice"));
        check("own_key", "secrets.get", Some("own-key of alice"));
        check("unset", "secrets.get", None);
        check("currency", "config.get", Some("EUR"));
        for name in [
            "other-key",
            "bobs-key",
            "bob/bobs-key",
            "nobodys",
            "",
            "own-key\0",
        ] {
            check(name, "config.get", None);
        }
        assert_eq!(view.get_all(), [("currency".to_owned(), "EUR".to_owned())]);
    }

    #[test]
    fn variables_are_named_as_spin_has_it() {
        for (name, expected) in [
            ("stripe_key", true),
            ("a", true),
            ("a1_", true),
            ("", false),
            ("_a", false),
            ("1a", false),
            ("stripe-key", false),
            ("Stripe", false),
            ("a.b", false),
            ("é", false),
            ("a\0", false),
        ] {
            assert_eq!(is_variable(name), expected, "{name}");
        }
    }
}
