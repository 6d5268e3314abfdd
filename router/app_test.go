package router

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestAppStateCloneIsApart(t *testing.T) {
	a := AppState{App: App{Name: "a", Domains: []string{"x.example.com"}, Secrets: map[string]Secret{"K": NewSecret("v")}}}
	a.AddRelease(Release{})
	a.PutInstance(Instance{ID: "i", State: Ready})
	b := a.Clone()
	b.App.Domains[0] = "y.example.com"
	b.App.Secrets["K"] = NewSecret("w")
	b.Releases[0].Failed = "x"
	b.Instances[0].State = Failed
	if a.App.Domains[0] != "x.example.com" || a.App.Secrets["K"].Reveal() != "v" || a.Releases[0].Failed != "" || a.Instances[0].State != Ready {
		t.Errorf("the original changed: %+v", a)
	}
}

func TestInstancesOfAnApp(t *testing.T) {
	var st AppState
	for _, id := range []string{"c", "a", "b"} {
		st.PutInstance(Instance{ID: id, Release: 1, State: Starting})
	}
	st.PutInstance(Instance{ID: "b", Release: 1, State: Ready})
	var ids []string
	for _, in := range st.Instances {
		ids = append(ids, in.ID)
	}
	if !slices.Equal(ids, []string{"a", "b", "c"}) || st.Count(1, Ready) != 1 || st.Count(1, Ready, Starting) != 3 || st.Count(2, Ready) != 0 {
		t.Errorf("%+v", st.Instances)
	}
	st.DropInstance("b")
	st.DropInstance("b")
	if _, ok := st.Instance("b"); ok || len(st.Instances) != 2 {
		t.Errorf("%+v", st.Instances)
	}
}

func TestAddReleaseForgetsOldOnes(t *testing.T) {
	st := AppState{App: App{Name: "a"}}
	st.App.Current = st.AddRelease(Release{Number: 99, App: "b"})
	if r, ok := st.Serving(); !ok || r.Number != 1 || r.App != "a" || r.Name() != "v1" {
		t.Fatalf("%+v", st.Releases)
	}
	st.AddRelease(Release{})
	st.PutInstance(Instance{ID: "i", Release: 2, State: Frozen})
	for range KeepReleases + 5 {
		st.AddRelease(Release{})
	}
	if len(st.Releases) != KeepReleases || st.App.Next != KeepReleases+7 {
		t.Errorf("%d releases kept, next %d", len(st.Releases), st.App.Next)
	}
	for _, n := range []int{1, 2, KeepReleases + 7} { // serving, with an instance, the newest
		if _, ok := st.Release(n); !ok {
			t.Errorf("v%d is forgotten", n)
		}
	}
	if _, ok := st.Release(3); ok {
		t.Error("v3 is kept")
	}
	st.Releases = st.Releases[:2]
	if n := st.AddRelease(Release{}); n != KeepReleases+8 {
		t.Errorf("the number %d is used again", n)
	}
}

func TestReleaseSameAs(t *testing.T) {
	base := Release{Number: 1, Image: "sha256:1", Source: Source{SourceStatic, "."}, Run: DefaultRun(), Env: map[string]string{"A": "b"}, Secrets: map[string]Secret{"K": NewSecret("v")}, Digest: "d"}
	same := base
	same.Number, same.Image, same.By, same.Note, same.Created = 2, "sha256:2", "x", "y", at
	same.Env = map[string]string{"A": "b"}
	if !base.SameAs(same) {
		t.Error("what does not run matters")
	}
	for name, change := range map[string]func(*Release){
		"digest":  func(r *Release) { r.Digest = "e" },
		"source":  func(r *Release) { r.Source.Path = "x" },
		"port":    func(r *Release) { r.Run.Port = 1 },
		"command": func(r *Release) { r.Run.Command = []string{"x"} },
		"env":     func(r *Release) { r.Env = nil },
		"secret":  func(r *Release) { r.Secrets = map[string]Secret{"K": NewSecret("w")} },
	} {
		other := base
		change(&other)
		if base.SameAs(other) {
			t.Errorf("%s makes no difference", name)
		}
	}
}

func TestEnvironment(t *testing.T) {
	r := Release{Run: Run{Port: 9000}, Env: map[string]string{"A": "manifest", "B": "manifest", "PORT": "1"}, Secrets: map[string]Secret{"A": NewSecret("secret")}}
	if env := r.Environment(); len(env) != 3 || env["A"] != "secret" || env["B"] != "manifest" || env["PORT"] != "9000" {
		t.Errorf("%v", env)
	}
}

func TestHosts(t *testing.T) {
	a := App{Name: "hello", Domains: []string{"b.example.com", "a.example.com"}}
	if got := a.Hosts("localhost"); !slices.Equal(got, []string{"hello.localhost", "b.example.com", "a.example.com"}) {
		t.Errorf("%v", got)
	}
	if a.Hosts("x")[0] = "changed"; a.Domains[0] != "b.example.com" {
		t.Error("the app's own list changed")
	}
}

func TestError(t *testing.T) {
	err := fmt.Errorf("outside: %w", Errorf(CodeUnavailable, "redis: %w", io.ErrUnexpectedEOF))
	if CodeOf(err) != CodeUnavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if CodeOf(io.EOF) != CodeInternal || Invalid("x", nil) != nil {
		t.Error("an error from nothing")
	}
	text := Invalid("x", []Violation{{"a", "1", "l", "r"}, {"b", "", "m", ""}}).Error()
	if text != "x is not valid:\n  a = 1: l; r\n  b: m" {
		t.Errorf("%q", text)
	}
}

func TestToken(t *testing.T) {
	tok, text := NewToken("ci", at)
	shown := text.Reveal()
	if id, ok := TokenID(shown); !ok || id != tok.ID || !tok.Matches(shown) || strings.Contains(shown, tok.Hash) || tok.Name != "ci" {
		t.Fatalf("%+v", tok)
	}
	other, otherText := NewToken("ci", at)
	if other.ID == tok.ID || other.Hash == tok.Hash || tok.Matches(otherText.Reveal()) {
		t.Error("two tokens are alike")
	}
	_, secret, _ := strings.Cut(strings.TrimPrefix(shown, "fgt_"), "_")
	for name, wrong := range map[string]string{
		"empty": "", "cut": shown[:len(shown)-1], "longer": shown + "A", "another id": "fgt_" + other.ID + "_" + secret,
		"another secret": "fgt_" + tok.ID + "_" + strings.Repeat("A", len(secret)), "no prefix": shown[4:], "the hash": "fgt_" + tok.ID + "_" + tok.Hash, "no secret": "fgt_" + tok.ID + "_",
	} {
		if tok.Matches(wrong) {
			t.Errorf("%s matches", name)
		}
	}
	for _, text := range []string{"", "fgt_", "fgt__x", "fgt_0123456789ab", "fgt_0123456789ab_", "fgt_123_x", "xyz_0123456789ab_x"} {
		if id, ok := TokenID(text); ok {
			t.Errorf("%q has the id %q", text, id)
		}
	}
}

func FuzzTokenMatches(f *testing.F) {
	tok, text := NewToken("x", at)
	f.Add("fgt_0123456789ab_secret")
	f.Add("fgt_" + tok.ID + "_")
	f.Fuzz(func(t *testing.T, s string) {
		if tok.Matches(s) && s != text.Reveal() {
			t.Fatalf("%q matches", s)
		}
	})
}
