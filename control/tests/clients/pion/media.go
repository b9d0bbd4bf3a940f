package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4/pkg/media"
)

const (
	ivfHeader      = 32
	ivfFrameHeader = 12
)

// readIVF returns the frames of an IVF file.
func readIVF(path string) ([][]byte, error) {
	bytes, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var frames [][]byte
	for at := ivfHeader; at+ivfFrameHeader <= len(bytes); {
		length := int(binary.LittleEndian.Uint32(bytes[at:]))
		at += ivfFrameHeader
		if at+length > len(bytes) {
			return nil, fmt.Errorf("%s: a frame is cut off", path)
		}
		frames = append(frames, bytes[at:at+length])
		at += length
	}
	if len(frames) == 0 {
		return nil, errors.New(path + ": no frames")
	}
	return frames, nil
}

// film plays frames again and again. The SDK asks for the next one when it is due.
type film struct {
	lksdk.BaseSampleProvider
	frames   [][]byte
	duration time.Duration
	next     int
}

func (f *film) NextSample(context.Context) (media.Sample, error) {
	frame := f.frames[f.next%len(f.frames)]
	f.next++
	return media.Sample{Data: frame, Duration: f.duration}, nil
}

// frameCounter finds the ends of VP8 frames (RFC 7741) whose packets all came, from a key frame on. After a gap it waits
// for the next key frame.
type frameCounter struct {
	expected         uint16
	knows            bool
	started, inFrame bool
}

// endsFrame says whether a whole frame ends with this packet.
func (f *frameCounter) endsFrame(packet *rtp.Packet) bool {
	f.follow(packet)
	if isStart, isKey := startOfFrame(packet.Payload); isStart {
		f.started = f.started || isKey
		f.inFrame = true
	}
	ends := packet.Marker && f.inFrame
	if ends {
		f.inFrame = false
	}
	return ends && f.started
}

// skip takes a packet without payload.
func (f *frameCounter) skip(packet *rtp.Packet) {
	f.follow(packet)
}

func (f *frameCounter) follow(packet *rtp.Packet) {
	if f.knows && packet.SequenceNumber != f.expected {
		f.started, f.inFrame = false, false
	}
	f.knows, f.expected = true, packet.SequenceNumber+1
}

// startOfFrame says whether a payload begins a frame, and a key frame.
func startOfFrame(payload []byte) (isStart, isKey bool) {
	const startOfFirstPartition, partitionAndStart = 0x10, 0x17
	if len(payload) == 0 || payload[0]&partitionAndStart != startOfFirstPartition {
		return false, false
	}
	at := 1
	if payload[0]&0x80 != 0 && at < len(payload) {
		extension := payload[at]
		at++
		if extension&0x80 != 0 && at < len(payload) {
			if payload[at]&0x80 != 0 {
				at++
			}
			at++
		}
		if extension&0x40 != 0 {
			at++
		}
		if extension&0x30 != 0 {
			at++
		}
	}
	return true, at < len(payload) && payload[at]&1 == 0
}
