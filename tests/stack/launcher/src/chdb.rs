//! The part of `chdb.h` that is needed: one call, its result and its error.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};

/// `chdb_result`, which is opaque to callers.
#[repr(C)]
struct ChdbResult {
    internal_data: *mut c_void,
}

/// `chdb_result * chdb_query_cmdline(int argc, char ** argv)`
type QueryCmdline = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut ChdbResult;
/// `const char * chdb_result_error(chdb_result * result)`: null when the query succeeded.
type ResultError = unsafe extern "C" fn(*mut ChdbResult) -> *const c_char;
/// `void chdb_destroy_query_result(chdb_result * result)`
type DestroyResult = unsafe extern "C" fn(*mut ChdbResult);

/// An opened `libchdb.so`. It is never closed: the library leaves threads and static destructors behind.
pub(crate) struct Library {
    query_cmdline: QueryCmdline,
    result_error: ResultError,
    destroy_result: DestroyResult,
}

impl Library {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let c_path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path is a valid C string. Loading runs the library's static initialisers; nothing else of this
        // process runs yet that they could disturb, except the signal thread, which only waits.
        let handle = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            let path = path.display();
            bail!("cannot load {path}: {}; --lib wants the libchdb.so of @chdb/lib-linux-*-gnu", dl_error());
        }
        // SAFETY: each type repeats the declaration of that function in chdb.h.
        unsafe {
            Ok(Self {
                query_cmdline: std::mem::transmute::<*mut c_void, QueryCmdline>(symbol(handle, c"chdb_query_cmdline")?),
                result_error: std::mem::transmute::<*mut c_void, ResultError>(symbol(handle, c"chdb_result_error")?),
                destroy_result: std::mem::transmute::<*mut c_void, DestroyResult>(symbol(
                    handle,
                    c"chdb_destroy_query_result",
                )?),
            })
        }
    }

    /// Runs `clickhouse-local` with these arguments (the first is the program's name) until it ends.
    pub(crate) fn run(&self, args: &[String]) -> anyhow::Result<()> {
        let args = args.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<Vec<_>, _>>()?;
        let mut argv: Vec<*mut c_char> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        let argc = c_int::try_from(argv.len())?;
        // As for `main`, the list ends with a null pointer that argc does not count.
        argv.push(std::ptr::null_mut());
        // SAFETY: argv holds argc valid C strings and a null, all alive until the call returns. The function takes
        // `char **` as `main` does and, like most, does not write to the strings.
        let result = unsafe { (self.query_cmdline)(argc, argv.as_mut_ptr()) };
        if result.is_null() {
            bail!("the library returned no result");
        }
        // SAFETY: the result is not null and is destroyed only after the message was copied.
        let error = unsafe {
            let message = (self.result_error)(result);
            (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
        };
        // SAFETY: the result came from this library and is not used again.
        unsafe { (self.destroy_result)(result) };
        match error {
            Some(message) if !message.is_empty() => bail!("{message}"),
            _ => Ok(()),
        }
    }
}

fn symbol(handle: *mut c_void, name: &CStr) -> anyhow::Result<*mut c_void> {
    // SAFETY: the handle comes from dlopen and is never closed; the name is a valid C string.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!address.is_null()).then_some(address).with_context(|| format!("the library has no {}", name.to_string_lossy()))
}

fn dl_error() -> String {
    // SAFETY: dlerror returns null or a C string that stays valid until the next dl* call of this thread.
    unsafe {
        let message = libc::dlerror();
        if message.is_null() { "unknown error".into() } else { CStr::from_ptr(message).to_string_lossy().into_owned() }
    }
}
