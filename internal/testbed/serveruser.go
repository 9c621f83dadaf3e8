package testbed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// serverUser is the user that PostgreSQL runs as when it cannot be ours.
type serverUser struct {
	name     string
	uid, gid int
}

// postgresUser returns nil when the server can run as we do.
func postgresUser() (*serverUser, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
		return &serverUser{name: name, uid: uid, gid: gid}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: useradd --system postgres")
}

func (u *serverUser) attr() *syscall.SysProcAttr {
	if u == nil {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.gid)}}
}

// own gives a tree to the user.
func (u *serverUser) own(root string) error {
	if u == nil {
		return nil
	}
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.uid, u.gid)
	})
}

// canReach makes sure that the user may enter dir and all above it, which is
// more telling than the server's own "permission denied".
func (u *serverUser) canReach(dir string) error {
	if u == nil {
		return nil
	}
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		mode := fi.Mode().Perm()
		open := mode&0o001 != 0 ||
			ok && int(st.Uid) == u.uid && mode&0o100 != 0 ||
			ok && int(st.Gid) == u.gid && mode&0o010 != 0
		if !open {
			return fmt.Errorf("PostgreSQL runs as user %s, who cannot enter %s: chmod o+x %s, or choose another directory", u.name, d, d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}
