//! The imports that a module may have: the functions of WASI preview 1, and what is said of others.

/// The module of which every function is imported.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// Imports named in one error; the rest are counted.
const NAMED_MAX: usize = 4;

/// Characters of a name in an error.
const NAME_CHARS_MAX: usize = 64;

/// Each function with its parameters and results: `i` is an i32, `I` an i64. The standard's own list, in its order.
pub const FUNCTIONS: [(&str, &str); 46] = [
    ("args_get", "ii:i"),
    ("args_sizes_get", "ii:i"),
    ("environ_get", "ii:i"),
    ("environ_sizes_get", "ii:i"),
    ("clock_res_get", "ii:i"),
    ("clock_time_get", "iIi:i"),
    ("fd_advise", "iIIi:i"),
    ("fd_allocate", "iII:i"),
    ("fd_close", "i:i"),
    ("fd_datasync", "i:i"),
    ("fd_fdstat_get", "ii:i"),
    ("fd_fdstat_set_flags", "ii:i"),
    ("fd_fdstat_set_rights", "iII:i"),
    ("fd_filestat_get", "ii:i"),
    ("fd_filestat_set_size", "iI:i"),
    ("fd_filestat_set_times", "iIIi:i"),
    ("fd_pread", "iiiIi:i"),
    ("fd_prestat_get", "ii:i"),
    ("fd_prestat_dir_name", "iii:i"),
    ("fd_pwrite", "iiiIi:i"),
    ("fd_read", "iiii:i"),
    ("fd_readdir", "iiiIi:i"),
    ("fd_renumber", "ii:i"),
    ("fd_seek", "iIii:i"),
    ("fd_sync", "i:i"),
    ("fd_tell", "ii:i"),
    ("fd_write", "iiii:i"),
    ("path_create_directory", "iii:i"),
    ("path_filestat_get", "iiiii:i"),
    ("path_filestat_set_times", "iiiiIIi:i"),
    ("path_link", "iiiiiii:i"),
    ("path_open", "iiiiiIIii:i"),
    ("path_readlink", "iiiiii:i"),
    ("path_remove_directory", "iii:i"),
    ("path_rename", "iiiiii:i"),
    ("path_symlink", "iiiii:i"),
    ("path_unlink_file", "iii:i"),
    ("poll_oneoff", "iiii:i"),
    ("proc_exit", "i:"),
    ("proc_raise", "i:i"),
    ("sched_yield", ":i"),
    ("random_get", "ii:i"),
    ("sock_accept", "iii:i"),
    ("sock_recv", "iiiiii:i"),
    ("sock_send", "iiiii:i"),
    ("sock_shutdown", "ii:i"),
];

/// What a module imports, as far as an answer needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import<'a> {
    pub module: &'a str,
    pub name: &'a str,
    /// Parameters and results as in [`FUNCTIONS`]; `None` for anything but a function of integers.
    pub shape: Option<String>,
}

/// Why the imports cannot be provided, if they cannot.
pub(super) fn refusal(imports: &[Import<'_>]) -> Option<String> {
    let offered = |import: &Import<'_>| {
        FUNCTIONS.iter().find(|(name, _)| import.module == MODULE && *name == import.name).map(|(_, shape)| *shape)
    };
    let mut unknown = imports.iter().filter(|import| offered(import).is_none()).peekable();
    if let Some(first) = unknown.peek().copied() {
        let names: Vec<&Import<'_>> = unknown.collect();
        let listed: Vec<String> = names.iter().take(NAMED_MAX).map(|import| shown(import)).collect();
        let more = match names.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Some(format!(
            "it imports {}{more}, which no worker offers: a module may import the functions of WASI preview 1 \
             ({MODULE}) and nothing else{}",
            listed.join(", "),
            origin(first)
        ));
    }
    let misshapen = imports.iter().find(|import| offered(import) != import.shape.as_deref())?;
    Some(format!(
        "it imports {} with other parameters than WASI preview 1 gives that function: the module's library and the \
         standard do not fit",
        shown(misshapen)
    ))
}

fn shown(import: &Import<'_>) -> String {
    let short = |name: &str| name.chars().take(NAME_CHARS_MAX).flat_map(char::escape_debug).collect::<String>();
    format!("`{}.{}`", short(import.module), short(import.name))
}

/// Where a module with such an import usually comes from, and what its author may do.
fn origin(import: &Import<'_>) -> &'static str {
    match import.module {
        "wasi_unstable" => "; it was built for the draft before preview 1: build it with a newer compiler",
        "gojs" | "go" => "; it was built for a browser: build it with GOOS=wasip1 GOARCH=wasm",
        "__wbindgen_placeholder__" | "wbg" => "; it was built for a browser: build it for the target wasm32-wasip1",
        "wasi" => "; it wants threads, which tasks do not have: build it without them (wasm32-wasip1)",
        "env" => {
            "; functions of `env` are left by a linker that did not find them, or come from a browser's host: build it \
             for the target wasm32-wasip1, or with STANDALONE_WASM"
        }
        module if module.starts_with("wasi:") => "; it was built for WASI preview 2: build it for wasm32-wasip1",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import<'a>(module: &'a str, name: &'a str, shape: &str) -> Import<'a> {
        Import { module, name, shape: Some(shape.to_owned()) }
    }

    #[test]
    fn the_first_few_unknown_imports_are_named_and_the_rest_are_counted() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut imports: Vec<_> = names.iter().map(|name| import("env", name, ":")).collect();
        imports.insert(0, import(MODULE, "fd_close", "i:i"));
        let told = refusal(&imports).unwrap();
        assert!(told.contains("`env.a`, `env.b`, `env.c`, `env.d` and 2 more") && told.contains(MODULE), "{told}");
        assert_eq!(refusal(&imports[..1]), None);
    }

    #[test]
    fn a_name_cannot_reach_the_terminal_raw_or_fill_it() {
        let long = "x".repeat(10_000);
        let told = refusal(&[import("e\u{1b}[31m\u{202e}", &long, ":")]).unwrap();
        assert!(told.len() < 600 && !told.contains('\u{1b}') && !told.contains('\u{202e}'), "{told}");
    }

    #[test]
    fn an_offered_function_with_another_shape_is_refused() {
        let told = refusal(&[import(MODULE, "fd_close", ":")]).unwrap();
        assert!(told.contains("fd_close") && told.contains("other parameters"), "{told}");
    }
}
