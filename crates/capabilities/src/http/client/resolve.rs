//! From a host to the addresses that a request may go to: looked up by a resolver of our own, all of them checked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use model::{DestinationHost, limits};

use super::{Reach, SendError};

/// A worker's resolver.
pub struct Resolve {
    reach: Reach,
    /// Or why there is none.
    resolver: Result<TokioResolver, String>,
    /// What was found, and until when that holds.
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    found: Result<Arc<[IpAddr]>, SendError>,
    until: Instant,
}

/// How long a name that has no address is not asked for again.
const NOTHING_KEPT: Duration = Duration::from_secs(1);

impl Resolve {
    /// Asks `nameservers`, or those that the machine asks if there are none.
    pub fn new(reach: Reach, nameservers: &[SocketAddr]) -> Self {
        Self {
            reach,
            resolver: resolver(nameservers).map_err(|error| error.to_string()),
            known: Mutex::default(),
        }
    }

    /// The addresses of `host`, each one that guests may reach.
    ///
    /// # Errors
    /// If one of them is not: who answers for the name wants the request to go where it must not.
    pub async fn addresses(&self, host: &DestinationHost) -> Result<Arc<[IpAddr]>, SendError> {
        let name = match host {
            DestinationHost::Address(address) => return self.check(&[*address]),
            DestinationHost::Name(name) => name,
        };
        if let Some(known) = self.known().get(name)
            && known.until > Instant::now()
        {
            return known.found.clone();
        }
        let resolver = self.resolver.as_ref();
        let resolver = resolver.map_err(|error| SendError::LookUp(error.clone()))?;
        // With a dot at its end: no search domain is tried.
        let found = resolver.lookup_ip(format!("{name}.")).await;
        let now = Instant::now();
        let found = found.map_err(judge).inspect_err(|error| {
            if *error == SendError::NoAddress {
                let until = now + NOTHING_KEPT;
                let found = Err(error.clone());
                self.keep(name, Known { found, until });
            }
        })?;
        let most = limits::ADDRESSES.default as usize;
        let addresses: Vec<IpAddr> = found.iter().take(most + 1).collect();
        if addresses.len() > most {
            return Err(SendError::LookUp(format!(
                "it has more than {most} addresses"
            )));
        }
        let addresses = self.check(&addresses)?;
        let longest = now + limits::NAME_KEPT.default.duration();
        let until = found.valid_until().min(longest);
        if until > now {
            let found = Ok(addresses.clone());
            self.keep(name, Known { found, until });
        }
        Ok(addresses)
    }

    fn check(&self, addresses: &[IpAddr]) -> Result<Arc<[IpAddr]>, SendError> {
        if addresses.is_empty() {
            return Err(SendError::NoAddress);
        }
        match addresses.iter().all(|address| self.reach.permits(*address)) {
            true => Ok(addresses.into()),
            false => Err(SendError::Unreachable),
        }
    }

    fn keep(&self, name: &str, known: Known) {
        let mut all = self.known();
        if all.len() as u64 >= limits::NAMES_KEPT.default {
            let now = Instant::now();
            all.retain(|_, known| known.until > now);
        }
        if all.len() as u64 >= limits::NAMES_KEPT.default {
            all.clear();
        }
        all.insert(name.to_owned(), known);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resolver(nameservers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if nameservers.is_empty() {
        TokioResolver::builder(provider)?
    } else {
        let servers = nameservers.iter().map(nameserver).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, provider)
    };
    let defaults = ResolverOpts::default();
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // The files of this machine are not the guests'.
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = true;
    options.try_tcp_on_error = true;
    // A machine's options may say otherwise: then guests wait for as long as it would.
    options.timeout = options.timeout.min(defaults.timeout);
    options.attempts = options.attempts.min(defaults.attempts);
    // It would keep whole answers, whatever their size: of a hostile zone's, megabytes. What is worth it is kept here.
    options.cache_size = 0;
    builder.build()
}

fn nameserver(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn judge(error: NetError) -> SendError {
    match error {
        NetError::Timeout => SendError::LookUpTimeout,
        error if error.is_no_records_found() => SendError::NoAddress,
        error => SendError::LookUp(error.to_string()),
    }
}
