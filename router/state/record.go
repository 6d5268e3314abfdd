package state

import (
	"encoding/json"
	"fmt"

	"github.com/fluxgate/fluxgate/router"
)

// The domain's types hide secrets when they are marshalled, and their field
// names are free to change; so what is stored are records of this package's
// own, with names that stay. Where a record has just the fields of its domain
// type, it converts to it directly, and the compiler sees to it that none is
// forgotten.

// stamp is in every record.
type stamp struct {
	Schema int `json:"schema"`
}

func (s stamp) schema() int { return s.Schema }

var current = stamp{router.SchemaVersion}

// encode is the stored form of a record.
func encode(record any) string {
	b, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("state: %T cannot be encoded: %v", record, err)) // records hold nothing that could fail
	}
	return string(b)
}

// decode reads the stored form of what into a record. It refuses a record of
// a newer schema, and one that is no record at all.
func decode[R interface{ schema() int }](what, raw string) (R, error) {
	var record R
	err := json.Unmarshal([]byte(raw), &record)
	schema := record.schema()
	if err != nil {
		// A newer schema may have other types; that is the better explanation.
		var s stamp
		if json.Unmarshal([]byte(raw), &s) == nil {
			schema = s.Schema
		}
	}
	switch {
	case schema > router.SchemaVersion:
		return record, router.Errorf(router.CodeInternal,
			"%s was stored by a newer Fluxgate (schema %d; this one knows up to %d): run the newer version here too",
			what, schema, router.SchemaVersion)
	case err != nil:
		// The decoder's own text may quote what is stored, secrets included.
		return record, router.Errorf(router.CodeInternal, "the stored record of %s is damaged: it cannot be decoded", what)
	case schema < 1:
		return record, router.Errorf(router.CodeInternal, "the stored record of %s is damaged: it has no schema version", what)
	}
	return record, nil
}

func reveal(secrets map[string]router.Secret) map[string]string {
	if len(secrets) == 0 {
		return nil
	}
	m := make(map[string]string, len(secrets))
	for k, v := range secrets {
		m[k] = v.Reveal()
	}
	return m
}

func conceal(texts map[string]string) map[string]router.Secret {
	if len(texts) == 0 {
		return nil
	}
	m := make(map[string]router.Secret, len(texts))
	for k, v := range texts {
		m[k] = router.NewSecret(v)
	}
	return m
}
