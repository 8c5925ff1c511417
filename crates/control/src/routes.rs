//! Routes: from what a manifest claims to what an app may have.

use model::{AppId, Host, Manifest, PathPrefix, Route};
use rusqlite::Connection;

use crate::records::{RecordsError, apps};

/// Why an app may not have a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteRefusal {
    #[error(
        "the host `{host}` lies within the platform's domain `{domain}`, where each app has its own: `{own}`; claim that one, or leave `host` out"
    )]
    Reserved { host: Host, domain: Host, own: Host },
    #[error(
        "the host `{0}` ends in `.internal`, which is for calls inside the platform; claim another host"
    )]
    Internal(Host),
    #[error(
        "the app's own host would be `{0}`, which is longer than a host can be; shorten the app's name or claim a host"
    )]
    TooLong(String),
    #[error("the manifest claims the route `{0}` twice")]
    Twice(Route),
    #[error(
        "the route `{route}` belongs to the app `{by}`; claim another path or host, or deploy `{by}` without it first"
    )]
    TakenByOwn { route: Route, by: String },
    #[error("the host `{0}` is taken by another tenant; claim a host of your own")]
    TakenByOther(Host),
}

/// The host that an app's name gives it.
pub(crate) fn own_host(id: &AppId, domain: &Host) -> Result<Host, RouteRefusal> {
    let text = if id.tenant.is_default() {
        format!("{}.{domain}", id.app)
    } else {
        format!("{}.{}.{domain}", id.app, id.tenant)
    };
    text.parse().map_err(|_| RouteRefusal::TooLong(text))
}

/// The routes that a manifest asks for, each with whether its host is the app's own.
pub(crate) fn claims(
    id: &AppId,
    manifest: &Manifest,
    domain: &Host,
) -> Result<Vec<(Route, bool)>, RouteRefusal> {
    if manifest.routes.is_empty() {
        let host = own_host(id, domain)?;
        let path = PathPrefix::root();
        return Ok(vec![(Route { host, path }, true)]);
    }
    let mut routes: Vec<(Route, bool)> = Vec::with_capacity(manifest.routes.len());
    for claim in &manifest.routes {
        let (host, own) = match &claim.host {
            None => (own_host(id, domain)?, true),
            Some(host) => (host.clone(), check_host(id, host, domain)?),
        };
        let path = claim.path.clone();
        let route = Route { host, path };
        if routes.iter().any(|(other, _)| *other == route) {
            return Err(RouteRefusal::Twice(route));
        }
        routes.push((route, own));
    }
    Ok(routes)
}

/// Whether a host that a manifest names is the app's own; an error if it may not be claimed.
fn check_host(id: &AppId, host: &Host, domain: &Host) -> Result<bool, RouteRefusal> {
    if host.is_within(domain) {
        let own = own_host(id, domain)?;
        if *host == own {
            return Ok(true);
        }
        let (host, domain) = (host.clone(), domain.clone());
        return Err(RouteRefusal::Reserved { host, domain, own });
    }
    if is_internal(host) {
        return Err(RouteRefusal::Internal(host.clone()));
    }
    Ok(false)
}

/// Whether a host is for calls inside the platform.
pub(crate) fn is_internal(host: &Host) -> bool {
    host.as_str() == "internal" || host.as_str().ends_with(".internal")
}

/// Whether nobody else has these routes. A host belongs to one tenant; its apps share it by path.
pub(crate) fn check_free(
    c: &Connection,
    id: &AppId,
    routes: &[(Route, bool)],
) -> Result<Result<(), RouteRefusal>, RecordsError> {
    for (route, _) in routes {
        for taken in apps::on_host(c, &route.host)? {
            if taken.id.tenant != id.tenant {
                return Ok(Err(RouteRefusal::TakenByOther(route.host.clone())));
            }
            if taken.id != *id && taken.route == *route {
                let (route, by) = (route.clone(), taken.id.app.to_string());
                return Ok(Err(RouteRefusal::TakenByOwn { route, by }));
            }
        }
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use model::RouteClaim;

    use super::*;

    fn check(id: &str, claimed: &[(&str, &str)], expected: &str) {
        let id: AppId = id.parse().unwrap();
        let mut manifest = Manifest::bare(id.app.clone());
        manifest.routes = claimed
            .iter()
            .map(|(host, path)| RouteClaim {
                host: (!host.is_empty()).then(|| host.parse().unwrap()),
                path: path.parse().unwrap(),
            })
            .collect();
        let found = match claims(&id, &manifest, &"midge.example".parse().unwrap()) {
            Ok(routes) => routes
                .iter()
                .map(|(route, own)| format!("{route}{}", if *own { " own" } else { "" }))
                .collect::<Vec<_>>()
                .join(", "),
            Err(refusal) => format!("refused: {refusal}"),
        };
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }

    #[test]
    fn a_claim_becomes_a_route_or_is_refused() {
        check("default/shop", &[], "shop.midge.example/ own");
        check("alice/shop", &[], "shop.alice.midge.example/ own");
        check(
            "default/shop",
            &[("", "/a"), ("shop.com", "/b")],
            "shop.midge.example/a own, shop.com/b",
        );
        check(
            "default/shop",
            &[("shop.midge.example", "/")],
            "shop.midge.example/ own",
        );
        check(
            "default/shop",
            &[("cart.midge.example", "/")],
            "refused: the host `cart.midge.example` lies within",
        );
        check(
            "default/shop",
            &[("midge.example", "/")],
            "refused: the host `midge.example` lies within",
        );
        check(
            "alice/shop",
            &[("shop.midge.example", "/")],
            "refused: the host `shop.midge.example` lies within",
        );
        check(
            "default/shop",
            &[("notmidge.example", "/")],
            "notmidge.example/",
        );
        check(
            "default/shop",
            &[("x.app.internal", "/")],
            "refused: the host `x.app.internal` ends in `.internal`",
        );
        check(
            "default/shop",
            &[("", "/"), ("shop.midge.example", "/")],
            "refused: the manifest claims the route `shop.midge.example/` twice",
        );
    }
}
