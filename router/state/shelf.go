package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// Tokens and nodes are few and small: each kind is one hash of records by name.

type tokenRecord struct {
	stamp
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Hash    string    `json:"hash"`
	Created time.Time `json:"created"`
}

func (r tokenRecord) token() router.Token {
	return router.Token{ID: r.ID, Name: r.Name, Hash: r.Hash, Created: r.Created}
}

// PutToken adds or replaces a token.
func (s *Store) PutToken(ctx context.Context, t router.Token) error {
	return s.put(ctx, s.keys.tokens(), "token "+t.ID, t.ID, tokenRecord{current, t.ID, t.Name, t.Hash, t.Created.UTC()})
}

// Token finds a token by its ID: CodeNotFound where there is none.
func (s *Store) Token(ctx context.Context, id string) (router.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := s.client.HGet(ctx, s.keys.tokens(), id).Result()
	if errors.Is(err, redis.Nil) {
		if err := s.emptied(ctx); err != nil {
			return router.Token{}, err
		}
		return router.Token{}, router.Errorf(router.CodeNotFound, "there is no token %q", id)
	}
	if err != nil {
		return router.Token{}, s.fail(ctx, "reading a token", err)
	}
	r, err := decode[tokenRecord]("token "+id, raw)
	return r.token(), err
}

// Tokens are all tokens, by ID.
func (s *Store) Tokens(ctx context.Context) ([]router.Token, error) {
	records, err := list[tokenRecord](ctx, s, s.keys.tokens(), "token")
	tokens := make([]router.Token, 0, len(records))
	for _, r := range records {
		tokens = append(tokens, r.token())
	}
	return tokens, err
}

// DeleteToken removes a token; one that is not there is fine.
func (s *Store) DeleteToken(ctx context.Context, id string) error {
	return s.drop(ctx, s.keys.tokens(), "token "+id, id)
}

type nodeRecord struct {
	stamp
	Name     string            `json:"name"`
	URL      string            `json:"url"`
	Address  string            `json:"address,omitempty"`
	Tunnel   bool              `json:"tunnel,omitempty"`
	HostKey  string            `json:"host_key,omitempty"`
	Gateway  string            `json:"gateway,omitempty"`
	Cordoned bool              `json:"cordoned,omitempty"`
	Facts    factsRecord       `json:"facts"`
	Labels   map[string]string `json:"labels,omitempty"`
}

type factsRecord struct {
	Podman    string         `json:"podman,omitempty"`
	Runtime   string         `json:"runtime,omitempty"`
	Rootless  bool           `json:"rootless,omitempty"`
	Direct    bool           `json:"direct,omitempty"`
	Freeze    bool           `json:"freeze,omitempty"`
	LimitCPU  bool           `json:"limit_cpu,omitempty"`
	LimitMem  bool           `json:"limit_mem,omitempty"`
	LimitPids bool           `json:"limit_pids,omitempty"`
	Reclaim   router.Reclaim `json:"reclaim,omitempty"`
	NoFile    int64          `json:"nofile,omitempty"`
	NProc     int64          `json:"nproc,omitempty"`
	CPUs      int            `json:"cpus,omitempty"`
	Memory    router.Bytes   `json:"memory"`
	Checked   time.Time      `json:"checked,omitzero"`
	Diagnosis []string       `json:"diagnosis,omitempty"`
}

// PutNode adds or replaces a node.
func (s *Store) PutNode(ctx context.Context, n router.Node) error {
	n.Facts.Checked = n.Facts.Checked.UTC()
	err := s.put(ctx, s.keys.nodes(), "node "+n.Name, n.Name, nodeRecord{current, n.Name, n.URL, n.Address, n.Tunnel, n.HostKey, n.Gateway, n.Cordoned, factsRecord(n.Facts), n.Labels})
	return errors.Join(err, s.setCapacity(ctx, n.Name, n.Facts.Memory), s.nodesChanged(ctx))
}

// setCapacity writes down how much memory a node has, for [Store.Update] to hold
// new instances against.
func (s *Store) setCapacity(ctx context.Context, node string, memory router.Bytes) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "storing what node "+node+" has", s.client.HSet(ctx, s.keys.capacity(), node, int64(memory)).Err())
}

// Reserved is the memory that instances count for, by node.
func (s *Store) Reserved(ctx context.Context) (map[string]router.Bytes, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	hash, err := s.client.HGetAll(ctx, s.keys.reserved()).Result()
	if err != nil {
		return nil, s.fail(ctx, "reading what is reserved", err)
	}
	sum := make(map[string]router.Bytes, len(hash))
	for node, text := range hash {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("what is reserved on node %s is %q, no number", node, text)
		}
		sum[node] = router.Bytes(n)
	}
	return sum, nil
}

// nodesChanged tells those who look at NodesVersion.
func (s *Store) nodesChanged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "telling of a changed node", s.client.Incr(ctx, s.keys.nodesVersion()).Err())
}

// NodesVersion rises with every change of a node.
func (s *Store) NodesVersion(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := s.client.Get(ctx, s.keys.nodesVersion()).Uint64()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	return v, s.fail(ctx, "looking for changed nodes", err)
}

// Nodes are all nodes, by name.
func (s *Store) Nodes(ctx context.Context) ([]router.Node, error) {
	records, err := list[nodeRecord](ctx, s, s.keys.nodes(), "node")
	nodes := make([]router.Node, 0, len(records))
	for _, r := range records {
		nodes = append(nodes, router.Node{
			Name: r.Name, URL: r.URL, Address: r.Address, Tunnel: r.Tunnel, HostKey: r.HostKey,
			Gateway: r.Gateway, Cordoned: r.Cordoned,
			Facts: router.NodeFacts(r.Facts), Labels: r.Labels,
		})
	}
	return nodes, err
}

// DropNode removes a node; one that is not there is fine.
func (s *Store) DropNode(ctx context.Context, name string) error {
	err := s.drop(ctx, s.keys.nodes(), "node "+name, name)
	return errors.Join(err, s.drop(ctx, s.keys.capacity(), "what node "+name+" has", name), s.nodesChanged(ctx))
}

func (s *Store) put(ctx context.Context, key, what, field string, record any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "storing "+what, s.client.HSet(ctx, key, field, encode(record)).Err())
}

func (s *Store) drop(ctx context.Context, key, what, field string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "removing "+what, s.client.HDel(ctx, key, field).Err())
}

// list reads all records of a hash, sorted by field.
func list[R interface{ schema() int }](ctx context.Context, s *Store, key, what string) ([]R, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	hash, err := s.client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, s.fail(ctx, "listing every "+what, err)
	}
	if len(hash) == 0 {
		if err := s.emptied(ctx); err != nil {
			return nil, err
		}
	}
	records := make([]R, 0, len(hash))
	for _, field := range slices.Sorted(maps.Keys(hash)) {
		r, err := decode[R](what+" "+field, hash[field])
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}
