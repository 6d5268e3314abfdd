package router

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestTable(t *testing.T) {
	var empty Table[int]
	if _, ok := empty.Lookup([]byte("a")); ok || empty.Len() != 0 {
		t.Error("the zero Table holds something")
	}
	one := empty.With(map[string]int{"a.com": 1, "b.com": 2}, nil)
	two := one.With(map[string]int{"b.com": 3, "c.com": 4}, []string{"a.com", "nowhere.com"})
	both := one.With(map[string]int{"a.com": 5}, []string{"a.com"}) // dropped and set: set
	for name, test := range map[string]struct {
		table *Table[int]
		want  map[string]int
	}{
		"empty": {&empty, nil}, "one": {one, map[string]int{"a.com": 1, "b.com": 2}},
		"two": {two, map[string]int{"b.com": 3, "c.com": 4}}, "both": {both, map[string]int{"a.com": 5, "b.com": 2}},
	} {
		for _, host := range []string{"a.com", "b.com", "c.com", "nowhere.com"} {
			want, wantOK := test.want[host]
			if got, ok := test.table.Lookup([]byte(host)); got != want || ok != wantOK {
				t.Errorf("%s: %s is %d, %v", name, host, got, ok)
			}
		}
		if test.table.Len() != len(test.want) {
			t.Errorf("%s: length %d", name, test.table.Len())
		}
	}
}

// TestTableAgainstMap: any sequence of changes, and every Table on the way
// stays what it was.
func TestTableAgainstMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	table, model := &Table[int]{}, map[string]int{}
	type version struct {
		table *Table[int]
		model map[string]int
	}
	var versions []version
	const hosts = 1000
	for i := range 300 {
		set, drop := map[string]int{}, []string{}
		for range rnd.IntN(40) {
			set[fmt.Sprintf("h%d.com", rnd.IntN(hosts))] = i
		}
		for range rnd.IntN(10) {
			drop = append(drop, fmt.Sprintf("h%d.com", rnd.IntN(hosts)))
		}
		for _, h := range drop {
			delete(model, h)
		}
		maps.Copy(model, set)
		table = table.With(set, drop)
		versions = append(versions, version{table, maps.Clone(model)})
	}
	for i, v := range versions {
		if v.table.Len() != len(v.model) {
			t.Fatalf("version %d: length %d, want %d", i, v.table.Len(), len(v.model))
		}
		for n := range hosts {
			host := fmt.Sprintf("h%d.com", n)
			want, wantOK := v.model[host]
			if got, ok := v.table.Lookup([]byte(host)); got != want || ok != wantOK {
				t.Fatalf("version %d: %s is %d, %v; want %d, %v", i, host, got, ok, want, wantOK)
			}
		}
	}
}

// TestTableOfEqualHashes: hostnames that no bit of their hashes tells apart are
// kept all the same.
func TestTableOfEqualHashes(t *testing.T) {
	const many = 3 * leafMost
	var root branch[int]
	name := func(i int) string { return fmt.Sprintf("h%d.com", i) }
	for _, hash := range []uint64{0, 1 << 63} { // told apart by the last bits only
		for i := range many {
			var added bool
			if root, added = root.with(leafEntry[int]{hash, name(i), i}, 0); !added {
				t.Fatalf("%s was there", name(i))
			}
		}
	}
	full := root
	for i := range many {
		var dropped bool
		if root, dropped = root.without(1<<63, 0, name(i)); !dropped {
			t.Fatalf("%s was not there", name(i))
		}
	}
	if _, dropped := root.without(1<<63, 0, name(0)); dropped {
		t.Error("dropped twice")
	}
	for i := range many {
		for at, want := range map[*branch[int]][2]bool{&full: {true, true}, &root: {true, false}} {
			for n, hash := range []uint64{0, 1 << 63} {
				if _, there := at.without(hash, 0, name(i)); there != want[n] {
					t.Fatalf("%s with the hash %x is there: %v", name(i), hash, there)
				}
			}
		}
	}
}

// TestTableUnderChange reads while others change, as the request path does;
// the race detector has the say.
func TestTableUnderChange(t *testing.T) {
	table := (&Table[int]{}).With(map[string]int{"stays.com": 1}, nil)
	var current sync.Map
	current.Store("table", table)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				v, _ := current.Load("table")
				if got, ok := v.(*Table[int]).Lookup([]byte("stays.com")); !ok || got != 1 {
					t.Error("a host that stays is gone")
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 500 {
		host := fmt.Sprintf("h%d.com", i%50)
		table = table.With(map[string]int{host: i}, []string{fmt.Sprintf("h%d.com", (i+25)%50)})
		current.Store("table", table)
	}
	close(stop)
	readers.Wait()
}

func TestTableLookupDoesNotAllocate(t *testing.T) {
	table := (&Table[*int]{}).With(map[string]*int{"hello.localhost": new(int)}, nil)
	host := []byte("hello.localhost")
	if n := testing.AllocsPerRun(1000, func() {
		if _, ok := table.Lookup(host); !ok {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTable(b *testing.B) {
	for _, size := range []int{1000, 100_000, 1_000_000} {
		set := make(map[string]int, size)
		for i := range size {
			set[fmt.Sprintf("app-%d.example.com", i)] = i
		}
		table := (&Table[int]{}).With(set, nil)
		b.Run(fmt.Sprintf("Lookup/%d", size), func(b *testing.B) {
			hosts := make([][]byte, 1024)
			for i := range hosts {
				hosts[i] = fmt.Appendf(nil, "app-%d.example.com", i*size/len(hosts))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := table.Lookup(hosts[i%len(hosts)]); !ok {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprintf("With/%d", size), func(b *testing.B) {
			change := map[string]int{"app-7.example.com": 1}
			b.ReportAllocs()
			for b.Loop() {
				table.With(change, nil)
			}
		})
	}
}
