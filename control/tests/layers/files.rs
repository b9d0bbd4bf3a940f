//! Which file of a crate names which: by its `use` lines and by the paths in its code, tests left out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// A module's path from the root of its crate, `["engine", "forward"]`.
type Module = Vec<String>;

/// The files of one crate, and whom each of them names.
pub struct Files {
    root: PathBuf,
    files: BTreeMap<Module, PathBuf>,
    names: BTreeMap<Module, BTreeSet<Module>>,
}

impl Files {
    /// Reads a crate from its root file, `sfu/src/lib.rs`, on.
    pub fn of(root: &Path) -> Self {
        let folder = root.parent().expect("a file is in a folder").to_owned();
        let mut files = Self { root: folder.clone(), files: BTreeMap::new(), names: BTreeMap::new() };
        let mut found = Vec::new();
        files.read(Vec::new(), root.to_owned(), folder, &mut found);
        for (module, paths) in found {
            let named = paths.iter().filter_map(|path| files.file_of(&module, path)).filter(|named| *named != module);
            let named: BTreeSet<Module> = named.collect();
            files.names.insert(module, named);
        }
        files
    }

    /// Reads a file and those of its `mod` lines. `folder` is where these are.
    fn read(&mut self, module: Module, file: PathBuf, folder: PathBuf, found: &mut Vec<(Module, Vec<Module>)>) {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.files.insert(module.clone(), file);
        let mut reader = Reader { module: module.clone(), paths: Vec::new(), children: Vec::new() };
        reader.visit_file(&parsed);
        found.push((module.clone(), reader.paths));
        for child in reader.children {
            let (beside, inside) = (folder.join(format!("{child}.rs")), folder.join(&child).join("mod.rs"));
            let mut path = module.clone();
            path.push(child.clone());
            let file = if beside.exists() { beside } else { inside };
            self.read(path, file, folder.join(child), found);
        }
    }

    /// The module, of those that are files, in which a path from the root ends.
    fn file_of(&self, from: &Module, path: &Module) -> Option<Module> {
        // `Name::function` of a name that this file has: no module of the crate.
        let is_child = path.len() > from.len() && self.files.contains_key(&path[..=from.len()]);
        if path.starts_with(from) && !is_child {
            return None;
        }
        (0..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| self.files.contains_key(module))
    }

    /// Circles of three files or more, each of which names the next: of every line between two files, the shortest that
    /// it closes. Two files that name each other are no circle, a module and its parts for example.
    pub fn circles(&self) -> BTreeSet<String> {
        let lines = self.names.iter().flat_map(|(from, named)| named.iter().map(move |to| (from, to)));
        let circles = lines.filter_map(|(from, to)| self.way_back(from, to));
        circles.map(|circle| self.written(&circle)).collect()
    }

    /// The shortest way from `to` back to `from` over at least one other file, both included.
    fn way_back<'a>(&'a self, from: &'a Module, to: &'a Module) -> Option<Vec<&'a Module>> {
        let mut before = BTreeMap::from([(to, to)]);
        let mut waiting = VecDeque::from([to]);
        while let Some(at) = waiting.pop_front() {
            for next in self.names[at].iter().filter(|next| (at, *next) != (to, from)) {
                if before.contains_key(next) {
                    continue;
                }
                before.insert(next, at);
                waiting.push_back(next);
            }
        }
        let mut way = vec![from];
        while *way.last()? != to {
            way.push(before.get(way.last()?)?);
        }
        way.reverse();
        Some(way)
    }

    /// The names of a circle, from the first in the alphabet on.
    fn written(&self, circle: &[&Module]) -> String {
        let first = (0..circle.len()).min_by_key(|at| circle[*at]).unwrap_or(0);
        let turned = circle.iter().cycle().skip(first).take(circle.len() + 1);
        turned.map(|module| self.name(module)).collect::<Vec<_>>().join(" > ")
    }

    fn name(&self, module: &Module) -> String {
        let file = &self.files[module];
        file.strip_prefix(&self.root).unwrap_or(file).display().to_string()
    }

    /// Files with more lines than that, and how many they have.
    pub fn longer_than(&self, lines_max: usize) -> Vec<String> {
        let lines = |file: &PathBuf| fs::read_to_string(file).map_or(0, |text| text.lines().count());
        let long =
            self.files.iter().map(|(module, file)| (module, lines(file))).filter(|(_, lines)| *lines > lines_max);
        long.map(|(module, lines)| format!("{} has {lines} lines", self.name(module))).collect()
    }
}

/// Collects the paths of one file.
struct Reader {
    /// Where it reads: the file's module, and modules written in the file.
    module: Module,
    /// Paths from the root of the crate.
    paths: Vec<Module>,
    /// Modules that are files of their own.
    children: Vec<String>,
}

impl Reader {
    fn note(&mut self, path: &[String]) {
        let mut full = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => (full, rest) = (Vec::new(), &path[1..]),
            Some("self") => rest = &path[1..],
            _ => {}
        }
        while rest.first().is_some_and(|segment| segment == "super") {
            full.pop();
            rest = &rest[1..];
        }
        full.extend_from_slice(rest);
        self.paths.push(full);
    }

    fn note_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.note_tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(tree, before)),
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                before.push(ident.to_string());
                self.note(before);
                before.pop();
            }
            syn::UseTree::Glob(_) => self.note(before),
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a syn::Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.content.is_none() {
            self.children.push(item.ident.to_string());
            return;
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.note_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path.leading_colon.is_none() && segments.len() > 1 {
            self.note(&segments);
        }
        visit::visit_path(self, path);
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]`, alone or with more.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
}
