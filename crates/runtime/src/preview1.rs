//! Preview 1 for command modules: what most commands do is done here, on the request and the reply directly; for the
//! rest the stock host is made when it is first needed. Making it costs as much as running a small command.

use std::future::poll_fn;

use bytes::Bytes;
use wasmtime::{AsContextMut as _, Caller, Extern, Linker, Memory};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as stock, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use crate::context::Context;

const MODULE: &str = "wasi_snapshot_preview1";

// The errno values of preview 1.
const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const INVAL: i32 = 28;
const IO: i32 = 29;

/// The most pieces that one write may name (POSIX's IOV_MAX).
const PIECES: u32 = 1_024;

/// A pointer of the guest's points outside its memory: a trap, as in the stock host.
#[derive(Debug, thiserror::Error)]
#[error("pointer out of bounds")]
struct Fault;

/// Lends preview 1 to every command module that the linker links.
pub fn add_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    wasmtime_wasi::p1::add_to_linker_async(linker, Context::preview1)?;
    linker.allow_shadowing(true);
    linker.func_wrap(MODULE, "environ_sizes_get", environ_sizes_get)?;
    linker.func_wrap(MODULE, "environ_get", environ_get)?;
    linker.func_wrap(MODULE, "fd_prestat_get", fd_prestat_get)?;
    linker.func_wrap(MODULE, "proc_exit", proc_exit)?;
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, Context>, arguments| {
            Box::new(async move { fd_write(&mut caller, arguments).await })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn environ_sizes_get(
    mut caller: Caller<'_, Context>,
    count_at: i32,
    bytes_at: i32,
) -> wasmtime::Result<i32> {
    let memory = memory(&mut caller)?;
    let (data, context) = memory.data_and_store_mut(&mut caller);
    let variables = context.environment();
    let count = variables.len() as u32;
    let bytes: usize = variables.iter().map(|variable| variable.len() + 1).sum();
    put_u32(data, count_at as u32, count)?;
    put_u32(data, bytes_at as u32, bytes as u32)?;
    Ok(SUCCESS)
}

fn environ_get(
    mut caller: Caller<'_, Context>,
    pointers_at: i32,
    bytes_at: i32,
) -> wasmtime::Result<i32> {
    let memory = memory(&mut caller)?;
    let (data, context) = memory.data_and_store_mut(&mut caller);
    let (mut pointer_at, mut at) = (pointers_at as u32, bytes_at as u32);
    for variable in context.environment() {
        put_u32(data, pointer_at, at)?;
        put(data, at, variable.as_bytes())?;
        let end = at.checked_add(variable.len() as u32).ok_or(Fault)?;
        put(data, end, &[0])?;
        at = end.checked_add(1).ok_or(Fault)?;
        pointer_at = pointer_at.checked_add(4).ok_or(Fault)?;
    }
    Ok(SUCCESS)
}

/// No folder is ever opened beforehand.
fn fd_prestat_get(_: Caller<'_, Context>, _: i32, _: i32) -> i32 {
    BADF
}

fn proc_exit(_: Caller<'_, Context>, status: i32) -> wasmtime::Result<()> {
    // The range of WASI: the rest is for signals.
    match status as u32 {
        0..126 => Err(I32Exit(status).into()),
        _ => Err(wasmtime::Error::msg(
            "exit with invalid exit status outside of [0..126)",
        )),
    }
}

/// Writes the first piece that is not empty, whole.
async fn fd_write(
    caller: &mut Caller<'_, Context>,
    (fd, pieces, count, written_at): (i32, i32, i32, i32),
) -> wasmtime::Result<i32> {
    let memory = memory(caller)?;
    if caller.data().has_preview1() {
        // Its descriptors may be others by now.
        let fuel = caller.as_context_mut().hostcall_fuel();
        let (data, context) = memory.data_and_store_mut(&mut *caller);
        let context = context.preview1();
        context.set_hostcall_fuel(fuel);
        let mut memory = GuestMemory::Unshared(data);
        return stock::fd_write(context, &mut memory, fd, pieces, count, written_at).await;
    }
    if !matches!(fd, 1 | 2) {
        return Ok(BADF);
    }
    if count as u32 > PIECES {
        return Ok(INVAL);
    }
    let (at, length) = first_piece(memory.data(&*caller), pieces as u32, count as u32)?;
    let written = match fd {
        1 => write_out(caller, memory, at, length).await,
        _ => {
            let (data, context) = memory.data_and_store_mut(&mut *caller);
            context.stderr().write(&data[at..at + length]);
            true
        }
    };
    if !written {
        return Ok(IO);
    }
    let data = memory.data_mut(&mut *caller);
    put_u32(data, written_at as u32, length as u32)?;
    Ok(SUCCESS)
}

/// Writes a piece of memory to standard output as there is room; whether anybody takes it.
async fn write_out(
    caller: &mut Caller<'_, Context>,
    memory: Memory,
    mut at: usize,
    mut length: usize,
) -> bool {
    let stdout = caller.data().stdout();
    while length > 0 {
        poll_fn(|context| stdout.poll_room(context)).await;
        let Ok(room) = stdout.room() else {
            return false;
        };
        let now = room.min(length);
        let bytes = Bytes::copy_from_slice(&memory.data(&*caller)[at..at + now]);
        if stdout.write(bytes).is_err() {
            return false;
        }
        at += now;
        length -= now;
    }
    true
}

/// Place and length of the first of `count` pieces at `pieces` that is not empty.
fn first_piece(data: &[u8], pieces: u32, count: u32) -> Result<(usize, usize), Fault> {
    for number in 0..count {
        let piece = pieces.checked_add(8 * number).ok_or(Fault)? as usize;
        let piece = data.get(piece..piece + 8).ok_or(Fault)?;
        let word = |at: usize| {
            let bytes = piece[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes) as usize
        };
        let (at, length) = (word(0), word(4));
        if length > 0 {
            data.get(at..at + length).ok_or(Fault)?;
            return Ok((at, length));
        }
    }
    Ok((0, 0))
}

fn memory(caller: &mut Caller<'_, Context>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(wasmtime::Error::msg("missing required memory export")),
    }
}

fn put(data: &mut [u8], at: u32, bytes: &[u8]) -> Result<(), Fault> {
    let place = data.get_mut(at as usize..).ok_or(Fault)?;
    place
        .get_mut(..bytes.len())
        .ok_or(Fault)?
        .copy_from_slice(bytes);
    Ok(())
}

fn put_u32(data: &mut [u8], at: u32, value: u32) -> Result<(), Fault> {
    put(data, at, &value.to_le_bytes())
}
