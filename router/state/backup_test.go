package state

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// furnished is an installation with one of everything.
func furnished(t *testing.T, s *Store) {
	t.Helper()
	ctx := testContext(t)
	for _, app := range []string{"one", "two"} {
		update(t, s, app, func(st *router.AppState) error {
			st.App.Policy = router.DefaultPolicy()
			st.App.Policy.Max = 7
			st.App.Owner = "me"
			st.App.Domains = []string{app + ".example.com"}
			st.App.Secrets = map[string]router.Secret{"KEY": router.NewSecret("hunter2")}
			st.AddRelease(router.Release{Image: "sha256:1", Run: router.Run{Port: 80, Reserve: mib}})
			st.AddRelease(router.Release{Image: "sha256:2", Run: router.Run{Port: 81, Reserve: mib}})
			st.App.Current = 2
			st.Instances = []router.Instance{{ID: "i-" + app, App: app, Release: 2, Node: "n1", State: router.Ready}}
			return nil
		})
	}
	if err := errors.Join(
		s.PutToken(ctx, router.Token{ID: "t1", Name: "laptop", Hash: "abc"}),
		s.PutNode(ctx, router.Node{Name: "n1", URL: "unix:///n1", Facts: router.NodeFacts{Memory: 100 * mib}}),
		s.PutNode(ctx, router.Node{Name: "local", URL: "unix:///local", Gateway: "g1"}),
		s.Certificates().Store(ctx, "certificates/a/a.key", []byte("private")),
	); err != nil {
		t.Fatal(err)
	}
}

func backup(t *testing.T, s *Store) []byte {
	t.Helper()
	var buf bytes.Buffer
	counts, err := s.Backup(testContext(t), &buf, nil)
	if err != nil || counts != (BackupCounts{Apps: 2, Tokens: 1, Nodes: 2, Certificates: 1}) {
		t.Fatalf("%+v, %v", counts, err)
	}
	return buf.Bytes()
}

func TestBackupRestore(t *testing.T) {
	from, to := newStore(t), newStore(t)
	ctx := testContext(t)
	furnished(t, from)
	text := backup(t, from)
	f := watch(t, to) // a gateway serves meanwhile

	done, err := to.Restore(ctx, bytes.NewReader(text), RefuseExisting)
	if err != nil || done.Created != (BackupCounts{Apps: 2, Tokens: 1, Nodes: 1, Certificates: 1}) || len(done.Failed) > 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	f.await(t, "one", "me")
	for _, app := range []string{"one", "two"} {
		was, err := from.Load(ctx, app)
		if err != nil {
			t.Fatal(err)
		}
		is, err := to.Load(ctx, app)
		if err != nil || !sameDefinition(was, is) {
			t.Errorf("%s is %+v, %v; was %+v", app, is, err, was)
		}
		if len(is.Instances) != 0 {
			t.Errorf("%s has instances that nobody has seen running", app)
		}
	}
	if _, err := to.Update(ctx, "thief", func(st *router.AppState) error { st.App.Domains = []string{"one.example.com"}; return nil }); router.CodeOf(err) != router.CodeConflict {
		t.Errorf("its hostname is free: %v", err)
	}
	if key, err := to.Certificates().Load(ctx, "certificates/a/a.key"); err != nil || string(key) != "private" {
		t.Errorf("%q, %v", key, err)
	}
	if list, err := to.Certificates().List(ctx, "certificates", true); err != nil || len(list) == 0 {
		t.Errorf("the certificate is not listed: %v", err)
	}
	// The same again changes nothing.
	again, err := to.Restore(ctx, bytes.NewReader(text), RefuseExisting)
	if err != nil || again.Created != (BackupCounts{}) || again.Kept != 2 || again.Replaced != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// What runs carries the identity of the installation: an empty Redis takes it
// over, so that containers are adopted.
func TestRestoreIdentity(t *testing.T) {
	from, to := newStore(t), newStore(t)
	furnished(t, from)
	text := backup(t, from)
	if _, err := to.Restore(testContext(t), bytes.NewReader(text), RefuseExisting); err != nil {
		t.Fatal(err)
	}
	a, err := from.Installation(testContext(t))
	b, err2 := to.Installation(testContext(t))
	if a != b || err != nil || err2 != nil {
		t.Errorf("installation %s, want %s; %v %v", b, a, err, err2)
	}
}

func TestRestoreOverExisting(t *testing.T) {
	s := newStore(t)
	ctx := testContext(t)
	furnished(t, s)
	text := backup(t, s)
	own(t, s, "one", "you")
	before, _ := s.Load(ctx, "one")

	_, err := s.Restore(ctx, bytes.NewReader(text), RefuseExisting)
	wantCode(t, err, router.CodeConflict)
	if !strings.Contains(err.Error(), "1 apps are here already and differ (one)") {
		t.Error(err)
	}
	if now, _ := s.Load(ctx, "one"); now.Version != before.Version {
		t.Error("something was changed all the same")
	}

	done, err := s.Restore(ctx, bytes.NewReader(text), KeepExisting)
	if err != nil || done.Kept != 2 {
		t.Errorf("keep: %+v, %v", done, err)
	}
	done, err = s.Restore(ctx, bytes.NewReader(text), ReplaceExisting)
	if err != nil || done.Kept != 1 || done.Replaced != 1 {
		t.Errorf("overwrite: %+v, %v", done, err)
	}
	now, _ := s.Load(ctx, "one")
	if now.App.Owner != "me" || len(now.Instances) != 1 {
		t.Errorf("replaced: owner %s, %d instances; what runs must go on", now.App.Owner, len(now.Instances))
	}
}

func TestRestoreTakenHostname(t *testing.T) {
	s := newStore(t)
	furnished(t, s)
	text := backup(t, s)
	remove(t, s, "one")
	create(t, s, "other", "one.example.com")
	_, err := s.Restore(testContext(t), bytes.NewReader(text), ReplaceExisting)
	wantCode(t, err, router.CodeConflict)
	if !strings.Contains(err.Error(), "one.example.com belongs to app other here, and to one in the backup") {
		t.Error(err)
	}
}

// Nothing but a whole backup is restored.
func TestRestoreRefusesDamage(t *testing.T) {
	s := newStore(t)
	furnished(t, s)
	whole := backup(t, s)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	empty := newStore(t)
	for name, tt := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":             {nil, "cut short after line 0"},
		"another file":        {[]byte("PK\x03\x04\n"), "no record"},
		"JSON of another":     {[]byte("{\"kind\":\"x\"}\n"), "no Fluxgate backup"},
		"cut in a line":       {whole[:len(whole)/2], "cut short"},
		"without its end":     {join(lines[:len(lines)-2]...), "cut short"},
		"a line less":         {join(slices.Delete(slices.Clone(lines), 2, 3)...), "damaged"},
		"a byte changed":      {bytes.Replace(whole, []byte("hunter2"), []byte("hunter3"), 1), "damaged"},
		"of a newer version":  {bytes.Replace(whole, []byte(`"fluxgate_backup":1`), []byte(`"fluxgate_backup":9`), 1), "newer Fluxgate"},
		"a secret in garbage": {append(slices.Clone(lines[0]), []byte("hunter2\n")...), "line 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := empty.Restore(testContext(t), bytes.NewReader(tt.text), ReplaceExisting)
			wantCode(t, err, router.CodeInvalid)
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter") {
				t.Error(err)
			}
			if n := empty.client.DBSize(testContext(t)).Val(); n != 0 {
				t.Errorf("%d keys were written", n)
			}
		})
	}
}

func FuzzReadBackup(f *testing.F) {
	f.Add([]byte("{\"kind\":\"header\",\"fluxgate_backup\":1}\n"))
	f.Add([]byte("{\"kind\":\"end\"}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := readBackup(bytes.NewReader(text), func(backupLine) error { return nil }); err == nil && !bytes.Contains(text, []byte("sha256")) {
			t.Error("accepted without a sum")
		}
	})
}
