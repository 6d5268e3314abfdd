package router

import (
	"hash/maphash"
	"maps"
)

// tableShards is how many maps a Table is made of. A change copies only the
// shards that it touches, so that its cost does not grow with the Table: a
// million hostnames are a thousand to a shard.
const tableShards = 1024

var tableSeed = maphash.MakeSeed()

// Table is an immutable map from hostname to T. It is safe for any number of
// readers; With makes the next one. The zero Table is empty and ready to use.
type Table[T any] struct {
	shards [tableShards]map[string]T
	size   int
}

// Lookup finds a hostname in the form that NormalizeHost gives. It does not
// allocate.
func (t *Table[T]) Lookup(host []byte) (T, bool) {
	v, ok := t.shards[maphash.Bytes(tableSeed, host)%tableShards][string(host)]
	return v, ok
}

// Len is the number of hostnames.
func (t *Table[T]) Len() int { return t.size }

// With is the table after some hostnames were set and others dropped; t itself
// does not change.
func (t *Table[T]) With(set map[string]T, drop []string) *Table[T] {
	next := &Table[T]{shards: t.shards}
	fresh := make(map[int]bool)
	shard := func(host string) map[string]T {
		i := int(maphash.String(tableSeed, host) % tableShards)
		if !fresh[i] {
			fresh[i] = true
			if next.shards[i] = maps.Clone(t.shards[i]); next.shards[i] == nil {
				next.shards[i] = make(map[string]T)
			}
		}
		return next.shards[i]
	}
	next.size = t.size
	for _, host := range drop {
		m := shard(host)
		if _, ok := m[host]; ok {
			delete(m, host)
			next.size--
		}
	}
	for host, v := range set {
		m := shard(host)
		if _, ok := m[host]; !ok {
			next.size++
		}
		m[host] = v
	}
	return next
}
