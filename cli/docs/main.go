// Command docs writes the references that are made from the code: docs/cli.md,
// docs/manifest.md and the policy table in README.md. Run it in the
// repository's root, as `just docs` does.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

// write brings the pages below root up to date.
func write(root string) error {
	pages, err := pages(root)
	if err != nil {
		return err
	}
	for name, text := range pages {
		//nolint:gosec // G306: these are pages of a repository, for everybody
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pages is what the pages should hold, by name below root.
func pages(root string) (map[string]string, error) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		return nil, err
	}
	filled, err := fillPolicy(string(readme))
	if err != nil {
		return nil, err
	}
	return map[string]string{"docs/cli.md": commandReference(), "docs/manifest.md": manifestReference(), "README.md": filled}, nil
}
