package router

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"time"
)

// SchemaVersion is written into every stored record; a reader refuses a newer
// one rather than guess.
const SchemaVersion = 1

// KeepReleases is how many releases of an app are kept: the serving one and
// those before it that a rollback can reach.
const KeepReleases = 20

// App is what a developer pushes.
type App struct {
	Name    string            // unique; the first label of its hostname
	Owner   string            // name of the token that created it
	Domains []string          // hostnames beside NAME.DOMAIN, normalised
	Current int               // number of the serving release; 0 before the first
	Next    int               // number that the next release gets, less one: numbers are never reused
	Policy  Policy            // how it scales and sleeps
	Secrets map[string]Secret // environment set by `fluxgate env set`; goes into each new release
	Crash   Crash             // crash backoff of the serving release
	Created time.Time

	PolicyBy string    // name of the token that changed the policy last; empty: nobody did
	PolicyAt time.Time // when
}

// SetPolicy changes the policy, and who did it when, unless it is the same.
func (a *App) SetPolicy(p Policy, by string, at time.Time) {
	if p != a.Policy {
		a.Policy, a.PolicyBy, a.PolicyAt = p, by, at
	}
}

// AppState is everything stored about one app: the unit of every atomic write.
// A value that came out of a Catalog or a store is shared: Clone before
// changing it.
type AppState struct {
	Version   uint64 // rises with every write, over all apps; 0 means not stored
	App       App
	Releases  []Release  // by number, ascending
	Instances []Instance // by ID, ascending
	Deleted   bool       // set to remove the app
}

// Clone copies everything that a transition may change. Releases' maps are
// immutable and stay shared.
func (s AppState) Clone() AppState {
	s.App.Domains = slices.Clone(s.App.Domains)
	secrets := make(map[string]Secret, len(s.App.Secrets))
	for k, v := range s.App.Secrets {
		secrets[k] = v
	}
	s.App.Secrets = secrets
	s.Releases = slices.Clone(s.Releases)
	s.Instances = slices.Clone(s.Instances)
	return s
}

// Hosts are the hostnames that lead to the app on a gateway whose apps live
// under domain: NAME.DOMAIN first.
func (a App) Hosts(domain string) []string {
	return append([]string{a.Name + "." + domain}, a.Domains...)
}

// Release finds a release by number.
func (s *AppState) Release(number int) (*Release, bool) {
	for i := range s.Releases {
		if s.Releases[i].Number == number {
			return &s.Releases[i], true
		}
	}
	return nil, false
}

// Serving is the release that gets the traffic, if there is one.
func (s *AppState) Serving() (*Release, bool) { return s.Release(s.App.Current) }

// Instance finds an instance by ID; the pointer is into s.
func (s *AppState) Instance(id string) (*Instance, bool) {
	for i := range s.Instances {
		if s.Instances[i].ID == id {
			return &s.Instances[i], true
		}
	}
	return nil, false
}

// PutInstance inserts or replaces an instance.
func (s *AppState) PutInstance(in Instance) {
	if p, ok := s.Instance(in.ID); ok {
		*p = in
		return
	}
	s.Instances = append(s.Instances, in)
	sort.Slice(s.Instances, func(i, j int) bool { return s.Instances[i].ID < s.Instances[j].ID })
}

// DropInstance removes an instance; dropping one that is not there is fine.
func (s *AppState) DropInstance(id string) {
	s.Instances = slices.DeleteFunc(s.Instances, func(in Instance) bool { return in.ID == id })
}

// AddRelease appends r under the next free number and returns that number. It
// forgets the oldest releases beyond KeepReleases, but never the serving one
// nor one that still has instances.
func (s *AppState) AddRelease(r Release) int {
	s.App.Next++
	r.App, r.Number = s.App.Name, s.App.Next
	s.Releases = append(s.Releases, r)
	for i := 0; len(s.Releases) > KeepReleases && i < len(s.Releases)-1; {
		number := s.Releases[i].Number
		used := number == s.App.Current ||
			slices.ContainsFunc(s.Instances, func(in Instance) bool { return in.Release == number })
		if used {
			i++
			continue
		}
		s.Releases = slices.Delete(s.Releases, i, i+1)
	}
	return r.Number
}

// Count is how many instances of a release are in one of the states.
func (s *AppState) Count(release int, states ...InstanceState) int {
	n := 0
	for i := range s.Instances {
		if s.Instances[i].Release == release && slices.Contains(states, s.Instances[i].State) {
			n++
		}
	}
	return n
}

var appName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)

// reservedNames are hostnames under the domain that are the platform's own.
var reservedNames = []string{"fluxgate", "registry"}

// PlatformHost is the hostname of the control API under domain.
func PlatformHost(domain string) string { return "fluxgate." + domain }

// RegistryHost is the hostname of the image registry under domain.
func RegistryHost(domain string) string { return "registry." + domain }

// CheckAppName says what is wrong with an app's name; nil where nothing is. An
// app's name is a hostname label (RFC 1123 section 2.1), short enough to leave
// room for what containers' names add.
func CheckAppName(name string) *Violation {
	switch {
	case name == "":
		return &Violation{"name", "", "an app needs a name", `write name = "hello" in fluxgate.toml, or pass --name hello`}
	case !appName.MatchString(name):
		return &Violation{"name", fmt.Sprintf("%q", name), "1 to 40 of a-z, 0-9 and -, starting with a letter and not ending with -", `choose a name such as "my-app"`}
	case slices.Contains(reservedNames, name):
		return &Violation{"name", fmt.Sprintf("%q", name), "this name is the platform's own", "choose another name"}
	}
	return nil
}

// Reserves is the memory that an instance of the app counts for on its node.
// Only those that run or are about to count.
func (s *AppState) Reserves(in Instance) Bytes {
	switch in.State {
	case Starting, Ready, Draining:
		if rel, ok := s.Release(in.Release); ok {
			return rel.Run.Reserve
		}
	}
	return 0
}
