package distance

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// mtu is an Ethernet's, so that segments and windows are as usual.
	mtu = 1500
	// queue is how many packets wait for us at most, in the device: more than
	// windows let pass.
	queue = 50_000
	// largest is a packet that the device's user cuts up, and here nobody does
	// (TSO), with the header that tells how.
	largest = 64<<10 + 64
)

// device makes a TUN device in the namespace of the calling thread. It hands over
// what TCP sends at once, up to 64 KiB, in one piece, with the header of virtio-net
// before it, and takes it in the same form: so a packet goes from one device to the
// other unread.
func device(name, address string) (_ *os.File, err error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w (is the kernel's module tun there?)", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			err = fmt.Errorf("make a TUN device: %w", err)
		}
	}()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4); err != nil {
		return nil, fmt.Errorf("offload: %w", err)
	}
	for _, setting := range []struct {
		what  string
		ioctl uint
		set   func(*unix.Ifreq) error
	}{
		{"address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(address).To4()) }},
		{"netmask", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask) }},
		{"MTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
		{"queue", unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(queue); return nil }},
	} {
		if err := configure(name, setting.ioctl, setting.set); err != nil {
			return nil, fmt.Errorf("%s: %w", setting.what, err)
		}
	}
	if err := up(name); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// up switches a device on.
func up(name string) error {
	err := configure(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil })
	if err != nil {
		return fmt.Errorf("switch %s on: %w", name, err)
	}
	return nil
}

// configure changes one thing of a device in the calling thread's namespace.
func configure(name string, ioctl uint, set func(*unix.Ifreq) error) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := set(request); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return unix.IoctlIfreq(socket, ioctl, request)
}
