package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

// Installation is the identity that all gateways on this Redis and prefix
// share; it is made on the first call. It marks what they own elsewhere, such
// as containers. Later calls give what the first one found, also after Redis
// was emptied: then it is written back (see [Store.OnFlush]).
func (s *Store) Installation(ctx context.Context) (string, error) {
	if id := s.kept.id(); id != "" {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	if err := s.client.SetNX(ctx, s.keys.installation(), hex.EncodeToString(b[:]), 0).Err(); err != nil {
		return "", s.fail(ctx, "reading the installation's identity", err)
	}
	id, err := s.client.Get(ctx, s.keys.installation()).Result()
	if err != nil {
		return "", s.fail(ctx, "reading the installation's identity", err)
	}
	s.kept.setID(id)
	return id, nil
}
