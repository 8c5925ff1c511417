//! The stores of apps, over the API and beyond the apps' lives.

use model::{Expect, Incarnation, KvChange, Owner, StoreId};

use super::*;

fn owner(app: &str, incarnation: Incarnation) -> Owner {
    Owner {
        app: app.parse().unwrap(),
        incarnation,
    }
}

/// Writes as a guest of this owner would.
async fn write(api: &Api, owner: Owner) {
    let store = "default".parse().unwrap();
    let change = KvChange::Set {
        key: "k".to_owned(),
        value: b"old"[..].into(),
        expires_ms: None,
        expect: Expect::Anything,
    };
    let kv = &api.platform().settings.kv;
    let id = StoreId { owner, store };
    kv.change(&id, vec![change]).await.unwrap();
}

async fn owners(api: &Api) -> Vec<Owner> {
    api.platform().settings.kv.owners().await.unwrap()
}

#[tokio::test]
async fn a_start_removes_the_stores_of_apps_that_are_gone_and_no_app_comes_to_have_them() {
    let api = Api::start().await;
    for app in ["shop", "blog"] {
        api.version(app, "ok\none").await;
        write(&api, owner(&format!("default/{app}"), 0)).await;
    }
    let deleted = api.delete("/v1/tenants/default/apps/blog").await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(owners(&api).await, [owner("default/shop", 0)]);
    // A guest that ran on, and apps and tenants that the records do not know.
    for (app, incarnation) in [
        ("default/blog", 0),
        ("default/shop", 3),
        ("default/unknown", 0),
        ("default/unknown", 2),
        ("nobody/shop", 0),
    ] {
        write(&api, owner(app, incarnation)).await;
    }
    let api = Api::start_in(api.stop().await).await;
    // The next app of a name that is taken would have these: they are gone before one can be made.
    assert!(!owners(&api).await.contains(&owner("default/shop", 3)));
    for tries in 0.. {
        if owners(&api).await == [owner("default/shop", 0)] {
            break;
        }
        assert!(tries < 2_000, "{:?}", owners(&api).await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    for (app, incarnation) in [("shop", 0), ("blog", 1), ("unknown", 3)] {
        api.version(app, "ok\none").await;
        let path = format!("/v1/tenants/default/apps/{app}/kv");
        let listed: Value = api.get(&path).await.ok();
        let is_new = app != "shop";
        assert_eq!(listed.as_array().unwrap().is_empty(), is_new, "{listed}");
        let line = format!("PUT {path}/default/k");
        let kind = "content-type: application/octet-stream";
        let set = api.raw(&line, &[&bearer(&api.admin), kind], "new").await;
        assert_eq!(set.status, 200, "{set:?}");
        let owner = owner(&format!("default/{app}"), incarnation);
        assert!(owners(&api).await.contains(&owner), "{owner:?}");
    }
}
