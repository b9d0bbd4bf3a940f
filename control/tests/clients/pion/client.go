package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
)

const (
	// Between two messages that are repeated until they are answered.
	repeat = 500 * time.Millisecond
	// Attempts to join with one peer connection.
	joinsMax = 5
	// Between two requests for a key frame.
	keyFrameWait = 500 * time.Millisecond
	// How long the sound is muted, between the publisher's resume and its settling.
	muted = 300 * time.Millisecond
)

// client is a participant, with the SDK's defaults but for the connection model.
type client struct {
	room       *lksdk.Room
	sidAtFirst string
	joins      int
	stop       chan struct{}

	frames, packets       atomic.Int64
	reconnects            atomic.Int64
	otherLeft             atomic.Bool
	asked, answered       atomic.Bool
	otherSettled          atomic.Bool
	pings                 atomic.Int64
	mutes, unmutes        atomic.Int64
	lock                  sync.Mutex
	codecs                []string
	sending, disconnected string
}

func newClient() *client {
	return &client{stop: make(chan struct{})}
}

func (c *client) join(chosen options, patience time.Duration) error {
	callback := &lksdk.RoomCallback{
		ParticipantCallback: lksdk.ParticipantCallback{
			OnTrackSubscribed: c.onTrack,
			OnDataPacket:      c.onData,
			OnTrackMuted:      func(lksdk.TrackPublication, lksdk.Participant) { c.mutes.Add(1) },
			OnTrackUnmuted:    func(lksdk.TrackPublication, lksdk.Participant) { c.unmutes.Add(1) },
		},
		OnParticipantConnected:    func(*lksdk.RemoteParticipant) { c.otherLeft.Store(false) },
		OnParticipantDisconnected: func(*lksdk.RemoteParticipant) { c.otherLeft.Store(true) },
		OnReconnected:             func() { c.reconnects.Add(1) },
		OnDisconnectedWithReason: func(reason lksdk.DisconnectionReason) {
			c.lock.Lock()
			defer c.lock.Unlock()
			c.disconnected = string(reason)
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var extra []lksdk.ConnectOption
	if chosen.mode == "v1" {
		extra = append(extra, lksdk.WithSinglePeerConnection())
		// With one peer connection this SDK sends its offer with the join, and begins to read before it has set that
		// offer itself: an answer that comes at once is dropped, and it waits 5 s for nothing. On one processor the
		// reader begins later.
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	for {
		c.joins++
		// Data may come before the join returns.
		c.room = lksdk.NewRoom(callback)
		err := c.room.JoinWithContextAndToken(ctx, chosen.url, chosen.token, extra...)
		if err == nil {
			c.sidAtFirst = c.sid()
			return nil
		}
		if chosen.mode != "v1" || c.joins == joinsMax {
			return err
		}
	}
}

func (c *client) sid() string {
	return c.room.LocalParticipant.SID()
}

// leave ends the participation, also one that was never complete.
func (c *client) leave() {
	close(c.stop)
	if c.sidAtFirst != "" {
		c.room.Disconnect()
	}
}

// publish shows the film and plays the sound until the end of the process.
func (c *client) publish() error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	films := filepath.Join(filepath.Dir(binary), "..")
	video := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
	audio := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	for _, source := range []struct {
		codec    webrtc.RTPCodecCapability
		file     string
		duration time.Duration
		options  lksdk.TrackPublicationOptions
	}{
		{video, "numbered.ivf", time.Second / 30, lksdk.TrackPublicationOptions{
			Name: "camera", Source: livekit.TrackSource_CAMERA, VideoWidth: 320, VideoHeight: 180,
		}},
		{audio, "tone.ivf", 20 * time.Millisecond, lksdk.TrackPublicationOptions{
			Name: "microphone", Source: livekit.TrackSource_MICROPHONE,
		}},
	} {
		frames, err := readIVF(filepath.Join(films, source.file))
		if err != nil {
			return err
		}
		track, err := lksdk.NewLocalSampleTrack(source.codec)
		if err != nil {
			return err
		}
		if _, err := c.room.LocalParticipant.PublishTrack(track, &source.options); err != nil {
			return fmt.Errorf("%s: %w", source.options.Name, err)
		}
		if err := track.StartWrite(&film{frames: frames, duration: source.duration}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) muteAndUnmute() {
	for _, publication := range c.room.LocalParticipant.TrackPublications() {
		if local, ok := publication.(*lksdk.LocalTrackPublication); ok && local.Kind() == lksdk.TrackKindAudio {
			local.SetMuted(true)
			time.Sleep(muted)
			local.SetMuted(false)
		}
	}
}

func (c *client) onTrack(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, from *lksdk.RemoteParticipant) {
	c.lock.Lock()
	c.codecs = append(c.codecs, track.Codec().MimeType)
	c.lock.Unlock()
	var counter frameCounter
	var asked time.Time
	for {
		packet, _, err := track.ReadRTP()
		if err != nil {
			return
		}
		// Padding keeps a stream going, and is no sound.
		if len(packet.Payload) == 0 {
			counter.skip(packet)
			continue
		}
		if track.Kind() == webrtc.RTPCodecTypeAudio {
			c.packets.Add(1)
		} else if counter.endsFrame(packet) {
			c.frames.Add(1)
		} else if !counter.started && time.Since(asked) > keyFrameWait {
			// Pion leaves it to the program.
			asked = time.Now()
			from.WritePLI(track.SSRC())
		}
	}
}

// loseSignal ends the signalling connection without a Leave; the SDK takes it up again by itself.
func (c *client) loseSignal() error {
	c.reconnects.Store(0)
	c.room.Simulate(lksdk.SimulateSignalReconnect)
	return nil
}

func (c *client) isResumed() bool {
	return c.reconnects.Load() > 0 && c.room.ConnectionState() == lksdk.ConnectionStateConnected
}

func (c *client) onData(data lksdk.DataPacket, _ lksdk.DataReceiveParams) {
	message, ok := data.(*lksdk.UserDataPacket)
	if !ok {
		return
	}
	var identity string
	var number int64
	parsed, _ := fmt.Sscanf(string(message.Payload), "%s %d", &identity, &number)
	switch message.Topic {
	case "ping":
		if parsed == 2 {
			c.asked.Store(true)
			go c.send("pong", message.Payload)
		}
	case "pong":
		if parsed == 2 && identity == c.room.LocalParticipant.Identity() && number >= 1 && number <= c.pings.Load() {
			c.answered.Store(true)
		}
	case "settled":
		c.otherSettled.Store(true)
	}
}

func (c *client) exchanged() bool {
	return c.asked.Load() && c.answered.Load()
}

// ask sends a ping after another, until one is answered.
func (c *client) ask() {
	c.repeatedly(func() bool {
		if c.answered.Load() {
			return false
		}
		ping := fmt.Sprintf("%s %d", c.room.LocalParticipant.Identity(), c.pings.Add(1))
		c.send("ping", []byte(ping))
		return true
	})
}

// settle says from now on that nothing is left to be witnessed.
func (c *client) settle() {
	c.repeatedly(func() bool {
		c.send("settled", []byte(c.room.LocalParticipant.Identity()))
		return true
	})
}

func (c *client) repeatedly(act func() bool) {
	for act() {
		select {
		case <-c.stop:
			return
		case <-time.After(repeat):
		}
	}
}

func (c *client) send(topic string, payload []byte) {
	message := &lksdk.UserDataPacket{Topic: topic, Payload: payload}
	err := c.room.LocalParticipant.PublishDataPacket(message, lksdk.WithDataPublishReliable(true))
	if err != nil {
		// What was not sent is missed by the other participant, which says so; here it explains why.
		c.lock.Lock()
		defer c.lock.Unlock()
		c.sending = err.Error()
	}
}

// describe adds whatever helps to understand the report.
func (c *client) describe(detail map[string]any) {
	detail["version"] = lksdk.Version
	c.lock.Lock()
	defer c.lock.Unlock()
	detail["joins"], detail["frames"], detail["packets"] = c.joins, c.frames.Load(), c.packets.Load()
	detail["mutes"], detail["unmutes"] = c.mutes.Load(), c.unmutes.Load()
	if len(c.codecs) > 0 {
		detail["codecs"] = strings.Join(c.codecs, " ")
	}
	if c.sending != "" {
		detail["sending"] = c.sending
	}
	if c.disconnected != "" {
		detail["disconnected"] = c.disconnected
	}
}
