//! The machine's name, which a node has when its settings give none.

use quorate_protocols::directory::check_name;

/// Where systems keep it, the one that counts first.
const FILES: [&str; 2] = ["/proc/sys/kernel/hostname", "/etc/hostname"];

/// Empty when the machine has no name, or one that a node may not have.
pub fn of_machine() -> String {
    let read = FILES.iter().find_map(|file| std::fs::read_to_string(file).ok());
    usable(&read.unwrap_or_default())
}

/// The first part of a name: the domain says nothing within one network.
fn usable(text: &str) -> String {
    let name = text.trim().split('.').next().unwrap_or_default();
    if check_name(name).is_ok() { name.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_called_by_the_first_part_of_its_name() {
        assert_eq!(usable("attic.example.org\n"), "attic");
        assert_eq!(usable("box"), "box");
        assert_eq!(usable(&"x".repeat(65)), "");
        assert_eq!(usable("a\u{1b}[31m"), "");
        assert_eq!(usable(""), "");
    }
}
