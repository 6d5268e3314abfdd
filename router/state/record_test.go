package state

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// fill sets every field of v, however deep, to a value that is not its zero
// value: a field that is not stored then shows as a difference.
func fill(v reflect.Value, seed *int) {
	*seed++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, *seed, time.UTC)))
		return
	case router.Secret:
		v.Set(reflect.ValueOf(router.NewSecret(fmt.Sprintf("hidden-%d", *seed))))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text-%d", *seed))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*seed))
	case reflect.Uint64:
		v.SetUint(uint64(*seed))
	case reflect.Float64:
		v.SetFloat(float64(*seed) + 0.25)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), seed)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), seed)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, seed)
			fill(value, seed)
			v.SetMapIndex(key, value)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), seed)
	default:
		panic("a field of a kind that this test does not know: " + v.Kind().String())
	}
}

func filled[T any]() T {
	var v T
	seed := 0
	fill(reflect.ValueOf(&v).Elem(), &seed)
	return v
}

// fullState is an app with nothing left empty.
func fullState() router.AppState {
	st := filled[router.AppState]()
	st.Deleted = false
	st.App.Name = "full"
	for i := range st.Releases {
		st.Releases[i].App, st.Releases[i].Number = "full", i+1
	}
	for i := range st.Instances {
		st.Instances[i].App, st.Instances[i].ID = "full", fmt.Sprintf("full-1-%d", i)
	}
	return st
}

func wantEqual(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func hashOf(st router.AppState) map[string]string {
	set, _ := diff(router.AppState{}, st)
	hash := map[string]string{fieldVersion: fmt.Sprint(st.Version)}
	for i := 0; i < len(set); i += 2 {
		hash[set[i]] = set[i+1]
	}
	return hash
}

func TestRecordsKeepEveryField(t *testing.T) {
	full := fullState()
	got, err := decodeState("full", hashOf(full), &releaseCache{})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, got, full)

	never := router.AppState{Version: 1, App: router.App{Name: "never", Policy: router.DefaultPolicy()}}
	never.App.Policy.FreezeAfter = router.Never
	got, err = decodeState("never", hashOf(never), &releaseCache{})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, got, never)
}

func TestDamagedRecordsAreNamedWithoutTheirContent(t *testing.T) {
	for name, change := range map[string]func(map[string]string){
		"no app":           func(h map[string]string) { delete(h, fieldApp) },
		"no version":       func(h map[string]string) { delete(h, fieldVersion) },
		"app not JSON":     func(h map[string]string) { h[fieldApp] = `{"secrets":{"A":"hidden-` },
		"app of no schema": func(h map[string]string) { h[fieldApp] = `{"name":"full"}` },
		"release wrong":    func(h map[string]string) { h["rel:1"] = `{"schema":1,"number":"hidden-"}` },
		"release number":   func(h map[string]string) { h["rel:one"] = `{}` },
		"instance wrong":   func(h map[string]string) { h["ins:full-1-0"] = `[]` },
		"policy wrong":     func(h map[string]string) { h[fieldApp] = `{"schema":1,"policy":{"fast_window":"hidden-"}}` },
	} {
		t.Run(name, func(t *testing.T) {
			hash := hashOf(fullState())
			change(hash)
			_, err := decodeState("full", hash, &releaseCache{})
			wantCode(t, err, router.CodeInternal)
			if !strings.Contains(err.Error(), "full") || strings.Contains(err.Error(), "hidden-") {
				t.Fatal(err)
			}
		})
	}
}

func FuzzDecodeState(f *testing.F) {
	full := hashOf(fullState())
	f.Add("7", full["app"], "1", full["rel:1"], full["ins:full-1-0"])
	f.Add("", `{"schema":1}`, "x", `null`, `{"schema":9}`)
	f.Fuzz(func(t *testing.T, version, app, number, release, instance string) {
		st, err := decodeState("full", map[string]string{
			fieldVersion: version, fieldApp: app, releasePrefix + number: release, instPrefix + "full-1-0": instance,
		}, &releaseCache{})
		if err != nil {
			return
		}
		// What can be read can be written, and reads the same again.
		again, err := decodeState("full", hashOf(st), &releaseCache{})
		if err != nil {
			t.Fatal(err)
		}
		if set, drop := diff(st, again); st.Version > 0 && len(set)+len(drop) > 0 {
			t.Fatalf("%q %q", set, drop)
		}
	})
}
