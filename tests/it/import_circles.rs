//! No module of a crate imports itself through other modules, by the paths that its code names. What a module re-exports of its
//! submodules counts as its own, and imports between a module and its submodules do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A module by the names of its path: `["saga", "engine"]`.
type Module = Vec<String>;

#[test]
fn no_module_imports_itself_through_others() {
    let root = tests::workspace_root();
    let crates = [
        "clients/mesh",
        "clients/weft",
        "services/chassis",
        "services/claims",
        "services/eclaimlink",
        "services/events",
        "services/money",
        "services/order",
        "services/payment",
        "services/server",
        "tests",
    ];
    for name in crates {
        let imports = imports(&root.join(name).join("src"));
        assert!(imports.len() > 1, "{name} has modules");
        let circles = circles(&imports);
        assert!(circles.is_empty(), "{name} has import circles: {circles:#?}");
    }
}

#[test]
fn a_circle_is_found_through_groups_reexports_and_parents() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a; mod b; mod c;\npub use b::{deep::Thing, other};");
    write("a.rs", "use crate::{\n    Thing,\n    c::Leaf,\n};");
    write("b.rs", "mod deep;\nuse self::deep::Thing;");
    write(
        "b/deep.rs",
        "// use crate::c::Leaf;\nfn f() { super::super::a::g() }",
    );
    write("c.rs", "#[cfg(test)]\nmod tests {\n    use crate::a;\n}");
    let found = circles(&imports(folder.path()));
    assert_eq!(found, [["a", "b::deep"].map(str::to_owned).to_vec()]);
}

/// What each module imports, without its own submodules and parents, and without what tests import.
fn imports(source: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut files = BTreeMap::new();
    find_modules(source, &mut Vec::new(), &mut files);
    let reexports = files
        .get(&vec!["lib".to_owned()])
        .map(|file| reexports(&code(file)))
        .unwrap_or_default();
    let resolve = |from: &Module, path: Vec<String>| {
        let mut path = absolute(from, &path, &files)?;
        if let Some(to) = path.first().and_then(|name| reexports.get(name)) {
            path.clone_from(to);
        }
        while !path.is_empty() && !files.contains_key(&path) {
            path.pop();
        }
        let related = path.starts_with(from) || from.starts_with(&path);
        (!path.is_empty() && !related).then_some(path)
    };
    let of = |(module, file): (&Module, &PathBuf)| {
        let paths = paths(&code(file)).into_iter();
        let imported = paths.filter_map(|path| resolve(module, path)).collect();
        (module.clone(), imported)
    };
    files
        .iter()
        .filter(|(module, _)| !["main", "lib"].contains(&module[0].as_str()))
        .map(of)
        .collect()
}

fn find_modules(folder: &Path, module: &mut Module, files: &mut BTreeMap<Module, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") || (module.is_empty() && name == "bin") {
            continue;
        }
        module.push(name);
        if path.is_dir() {
            find_modules(&path, module, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(module.clone(), path);
        }
        module.pop();
    }
}

/// A file's code without comments and without the tests at its end.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines();
    lines
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

/// The names that the crate's root passes on, and the modules that they come from.
fn reexports(code: &str) -> BTreeMap<String, Module> {
    let mut all = BTreeMap::new();
    for statement in code
        .split("pub use ")
        .skip(1)
        .filter_map(|rest| rest.split(';').next())
    {
        for mut path in expand(statement) {
            if let Some(name) = path.pop() {
                all.insert(name, path);
            }
        }
    }
    all
}

/// Every path that begins in this crate, in `use` declarations and elsewhere.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = String::new();
    for (at, part) in code.split("use ").enumerate() {
        let (declaration, after) = part.split_once(';').unwrap_or(("", part));
        let is_declaration = at > 0 && !declaration.contains(['=', '(']);
        if is_declaration {
            all.extend(expand(declaration));
        }
        rest += if is_declaration { after } else { part };
    }
    let path_ends = |letter: char| !letter.is_alphanumeric() && !['_', ':'].contains(&letter);
    for word in rest.split(path_ends) {
        if word.starts_with("crate::") || word.starts_with("super::") {
            all.push(word.split("::").map(str::to_owned).collect());
        }
    }
    all
}

/// The paths of a `use` declaration, its groups resolved.
fn expand(declaration: &str) -> Vec<Vec<String>> {
    let names = |path: &str| -> Vec<String> {
        let names = path
            .split("::")
            .map(|name| name.split(" as ").next().unwrap_or_default().trim());
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let Some((prefix, group)) = declaration.split_once('{') else {
        return vec![names(declaration)];
    };
    let group = &group[..group.rfind('}').unwrap_or(group.len())];
    let (mut depth, mut members, mut member) = (0, Vec::new(), String::new());
    for letter in group.chars().chain([',']) {
        match letter {
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            _ => {
                depth += i32::from(letter == '{') - i32::from(letter == '}');
                member.push(letter);
            }
        }
    }
    let members = members.iter().filter(|member| !member.trim().is_empty());
    members
        .flat_map(|member| expand(member))
        .map(|path| [names(prefix), path].concat())
        .collect()
}

/// A path from the crate's root; `None` if it begins in another crate.
fn absolute(from: &Module, path: &[String], files: &BTreeMap<Module, PathBuf>) -> Option<Module> {
    let parents = path.iter().take_while(|name| *name == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([from, &path[1..]].concat()),
        "super" => Some([&from[..from.len().checked_sub(parents)?], &path[parents..]].concat()),
        _ => {
            let own = [from.as_slice(), path].concat();
            files.contains_key(&own[..=from.len()]).then_some(own)
        }
    }
}

/// The groups of modules that reach each other.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reachable = |start: &Module| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(module) = next.pop() {
            for imported in imports.get(module).into_iter().flatten() {
                if reached.insert(imported) {
                    next.push(imported);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        imports.keys().map(|module| (module, reachable(module))).collect();
    let circle = |module: &Module| {
        let back = |other: &&&Module| reached.get(**other).is_some_and(|all| all.contains(module));
        let circle: BTreeSet<_> = reached[module].iter().filter(back).collect();
        let names = circle.into_iter().map(|module| module.join("::"));
        names.collect::<Vec<_>>()
    };
    let all: BTreeSet<_> = imports
        .keys()
        .map(circle)
        .filter(|circle| !circle.is_empty())
        .collect();
    all.into_iter().collect()
}
