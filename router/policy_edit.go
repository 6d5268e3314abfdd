package router

import "time"

// PolicyEdit is one change of an app's policy.
type PolicyEdit struct {
	At      time.Time     `json:"at"`
	By      string        `json:"by" doc:"Name of the token"`
	Changes []FieldChange `json:"changes"`
}

// FieldChange is one setting that changed.
type FieldChange struct {
	Key  string `json:"key"`
	From string `json:"from"`
	To   string `json:"to"`
}

// Changes are the settings in which to differs from p, in the order in which
// fields are shown.
func (p Policy) Changes(to Policy) []FieldChange {
	list := []FieldChange{}
	for _, f := range PolicyFields {
		if before, after := f.Get(p), f.Get(to); before != after {
			list = append(list, FieldChange{f.Key, before, after})
		}
	}
	return list
}
