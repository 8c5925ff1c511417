//! The engine: one settings set, made the same by who compiles and by who runs.

use std::sync::Arc;

use capabilities::config::Secrets;
use capabilities::http::client::Client;
use capabilities::kv::KeyValue;
use model::{BuildKey, CpuClass, EngineSetting, Size, limits};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, ModuleVersionStrategy, OptLevel,
    PoolingAllocationConfig, Strategy, WasmFeatures, component,
};

use crate::context::Context;
use crate::preview1;
use crate::ticker::Ticker;

/// The engine's exact version; a test holds it against the lock file.
const VERSION: &str = "48.0.8";
/// Grows when the settings below change in a way that native code depends on.
const REVISION: u32 = 2;

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the engine cannot be made: {0:#}")]
pub struct EngineError(pub wasmtime::Error);

/// How large a worker's pool of instances is.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Instances live at once, [`limits::SLOTS`].
    pub slots: u64,
    /// The most linear memory any instance may have.
    pub memory: Size,
}

/// What stands behind the capabilities that guests are lent.
#[derive(Clone)]
pub struct Backends {
    pub kv: Arc<dyn KeyValue>,
    pub http: Arc<dyn Client>,
    pub secrets: Secrets,
}

/// What a worker runs guests with. Cheap to clone; clones share the pool.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    a: Side,
    b: Side,
    /// Of setting A.
    modules: wasmtime::Linker<Context>,
    ticker: Ticker,
    backends: Backends,
}

/// The engine with one of its settings.
pub(crate) struct Side {
    pub wasm: wasmtime::Engine,
    pub components: component::Linker<Context>,
}

impl Engine {
    /// The engine of a worker, its pool and its linkers.
    pub fn for_worker(pool: PoolSettings, backends: Backends) -> Result<Self, EngineError> {
        let side = |setting| {
            let wasm = running(setting, pool)?;
            let components = link_components(&wasm, setting).map_err(EngineError)?;
            Ok(Side { wasm, components })
        };
        let (a, b) = (side(EngineSetting::A)?, side(EngineSetting::B)?);
        let ticker = Ticker::start([a.wasm.clone(), b.wasm.clone()]);
        let inner = Inner {
            modules: link_modules(&a.wasm).map_err(EngineError)?,
            ticker: ticker.map_err(|e| EngineError(e.into()))?,
            backends,
            a,
            b,
        };
        Ok(Self(Arc::new(inner)))
    }

    pub(crate) fn side(&self, setting: EngineSetting) -> &Side {
        match setting {
            EngineSetting::A => &self.0.a,
            EngineSetting::B => &self.0.b,
        }
    }

    pub(crate) fn modules(&self) -> &wasmtime::Linker<Context> {
        &self.0.modules
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.0.ticker
    }

    pub(crate) fn backends(&self) -> &Backends {
        &self.0.backends
    }
}

/// Everything a component may import. What no grant covers is here too, and denies.
pub(crate) fn link_components(
    wasm: &wasmtime::Engine,
    setting: EngineSetting,
) -> wasmtime::Result<component::Linker<Context>> {
    let mut linker = component::Linker::new(wasm);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // The same streams again, over the table alone: through `WasiView` each call would first make a `WasiCtx`.
    linker.allow_shadowing(true);
    wasmtime_wasi_io::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(false);
    capabilities::http::host::add_to_linker(&mut linker)?;
    capabilities::config::host::add_to_linker(&mut linker)?;
    capabilities::kv::host::add_to_linker(&mut linker)?;
    match setting {
        EngineSetting::A => {}
        EngineSetting::B => {
            wasmtime_wasi::p3::add_to_linker(&mut linker)?;
            capabilities::http::host::wasi03::add_to_linker(&mut linker)?;
            capabilities::config::host::add_async_to_linker(&mut linker)?;
            capabilities::kv::host::add_async_to_linker(&mut linker)?;
        }
    }
    Ok(linker)
}

/// Everything a command module may import.
pub(crate) fn link_modules(wasm: &wasmtime::Engine) -> wasmtime::Result<wasmtime::Linker<Context>> {
    let mut linker = wasmtime::Linker::new(wasm);
    preview1::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Whether the kernel tells which pages an instance wrote to, so that only those are reset.
pub fn pagemap_scan_available() -> bool {
    PoolingAllocationConfig::is_pagemap_scan_available()
}

/// What native code is built by and for on this machine.
pub fn build_key(setting: EngineSetting) -> BuildKey {
    BuildKey {
        engine: format!("{VERSION}-{REVISION}"),
        setting,
        cpu: cpu_class(),
    }
}

/// The engine of a compile child: makes native code, runs nothing.
pub(crate) fn compiling(setting: EngineSetting) -> Result<wasmtime::Engine, EngineError> {
    let mut config = config(setting);
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(false);
    target(&mut config, cpu_class()).map_err(EngineError)?;
    wasmtime::Engine::new(&config).map_err(EngineError)
}

/// The engine of a worker: runs native code, compiles nothing.
fn running(setting: EngineSetting, pool: PoolSettings) -> Result<wasmtime::Engine, EngineError> {
    let mut config = config(setting);
    config.enable_compiler(false);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(pool)));
    wasmtime::Engine::new(&config).map_err(EngineError)
}

/// The features of Wasm that guests may use; every other one is off, and refused by name at deploy.
pub(crate) fn features(setting: EngineSetting) -> WasmFeatures {
    let plain = WasmFeatures::WASM2
        .difference(WasmFeatures::GC_TYPES)
        .union(WasmFeatures::TAIL_CALL)
        .union(WasmFeatures::EXTENDED_CONST)
        .union(WasmFeatures::RELAXED_SIMD)
        .union(WasmFeatures::COMPONENT_MODEL);
    match setting {
        EngineSetting::A => plain,
        EngineSetting::B => plain.union(WasmFeatures::CM_ASYNC),
    }
}

/// What native code depends on.
fn config(setting: EngineSetting) -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(features(setting), true)
        // Uploads may not use it. What the engine itself puts between two components of one upload does: it copies
        // from the memory of the one to that of the other.
        .wasm_features(WasmFeatures::MULTI_MEMORY, true);
    config
        // A quarter of the cost of a call, where it is not needed.
        .concurrency_support(setting == EngineSetting::B)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .async_stack_zeroing(true)
        .generate_address_map(false)
        .memory_init_cow(true);
    let version = format!("midge-{VERSION}-{REVISION}");
    config
        .module_version(ModuleVersionStrategy::Custom(version))
        .expect("the version is shorter than the 255 bytes that the engine takes");
    config
}

/// Aims at a named class of processors, never at the one that compiles.
fn target(config: &mut Config, cpu: CpuClass) -> wasmtime::Result<()> {
    const V2: &[&str] = &[
        "has_sse3",
        "has_ssse3",
        "has_sse41",
        "has_sse42",
        "has_popcnt",
    ];
    const V3: &[&str] = &[
        "has_avx",
        "has_avx2",
        "has_bmi1",
        "has_bmi2",
        "has_fma",
        "has_lzcnt",
    ];
    let (triple, flags): (&str, &[&[&str]]) = match cpu {
        CpuClass::X86_64V2 => ("x86_64-unknown-linux-gnu", &[V2]),
        CpuClass::X86_64V3 => ("x86_64-unknown-linux-gnu", &[V2, V3]),
        CpuClass::Aarch64 => ("aarch64-unknown-linux-gnu", &[]),
    };
    config.target(triple)?;
    for flag in flags.iter().copied().flatten() {
        // SAFETY: the flags name instructions; `cpu_class` has seen that this machine has them, and an engine
        // refuses native code that names others.
        unsafe { config.cranelift_flag_enable(flag) };
    }
    Ok(())
}

/// The best class that this machine's processor belongs to.
fn cpu_class() -> CpuClass {
    #[cfg(target_arch = "aarch64")]
    return CpuClass::Aarch64;
    #[cfg(target_arch = "x86_64")]
    {
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("lzcnt");
        if v3 {
            CpuClass::X86_64V3
        } else {
            CpuClass::X86_64V2
        }
    }
}

/// A pool larger than what admission lets in, so that a full pool is never what a request meets.
fn pooling(settings: PoolSettings) -> PoolingAllocationConfig {
    let slots = u32::try_from(settings.slots).expect("`node.slots` has a ceiling below this");
    let reserve = slots / 8 + 16;
    let total = slots + reserve;
    let small = |limit: u64| u32::try_from(limit).expect("the limits of an instance are small");
    let mut pooling = PoolingAllocationConfig::new();
    pooling
        // Reset only the pages a guest wrote to: no change of mappings, so no TLB shootdown.
        .pagemap_scan(if pagemap_scan_available() {
            Enabled::Yes
        } else {
            Enabled::No
        })
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(32 << 10)
        // At once: what waits for company keeps a gigabyte of an idle worker.
        .decommit_batch_size(1)
        .max_unused_warm_slots(total)
        .max_memory_size(settings.memory.as_usize())
        .total_memories(total)
        .total_tables(total.saturating_mul(2))
        .total_stacks(total)
        .total_core_instances(total.saturating_mul(4))
        .total_component_instances(total)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(2 * limits::WASM_INSTANCE.default.as_usize())
        .max_core_instances_per_component(small(limits::CORE_INSTANCES.default))
        .max_memories_per_component(small(limits::MEMORIES.default))
        .max_tables_per_component(small(limits::TABLES.default))
        .max_tables_per_module(small(limits::TABLES.default))
        .max_memories_per_module(1)
        .table_elements(limits::TABLE_ELEMENTS.default as usize);
    pooling
}
/// Backends over nothing, and the folder that they lie in.
#[cfg(test)]
pub(crate) fn empty_backends() -> (tempfile::TempDir, Backends) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(|| 0);
    let stores =
        capabilities::kv::embedded::Stores::open(folder.path(), Size::mib(1), clock).unwrap();
    let network = capabilities::http::client::Network::new(&Default::default()).unwrap();
    let backends = Backends {
        kv: Arc::new(stores),
        secrets: Secrets::default(),
        http: Arc::new(network),
    };
    (folder, backends)
}
